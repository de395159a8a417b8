package node

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
)

// What a node reports counts at the other end, and stops counting: a live
// connection is cut when the node reports something else. Applications are told
// what the rule says the node may do.
func TestPosture(t *testing.T) {
	t.Cleanup(func() { noneLeft(t) })
	m := newMesh(t)
	echoAt, ended := echo(t)
	ledger := m.up("ledger", t.TempDir(), func(c *Config) {
		c.Secret = papers.EnrolSecret{Entry: "ledger-fleet", Tags: []string{"ledger"}, Key: key.NewEnrol()}
		c.Forwards = []Forward{{Port: 7, Target: echoAt}}
	})
	file := filepath.Join(t.TempDir(), "posture.json")
	report := func(disk string) {
		if err := os.WriteFile(file, []byte(`{"disk": "`+disk+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	report("encrypted")
	dir := t.TempDir()
	alice := m.up("alice", dir, func(c *Config) { c.Posture = file })
	m.coord.WaitEnforced(2)
	p := m.policy("alice@acme.example")
	p.Rules[0].Posture = acl.Postures{{{Attr: "custom:disk", Op: acl.OpIn, Values: []string{"encrypted"}}}}
	p.Rules[0].Capabilities = map[string]json.RawMessage{"acme.example/ledger": json.RawMessage(`{"role":"clerk"}`)}
	m.w.Advance(time.Minute)
	m.coord.Publish(m.w.Publish(p))
	m.coord.WaitEnforced(2)
	alice.wait("alice knows the ledger", hasPeer("ledger"))
	conn := alice.connect("ledger:7")
	if err := say(conn, "before"); err != nil {
		t.Fatal(err)
	}
	s, err := alice.Status(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	who := ledger.whois(t, s.Addrs[0])
	if who.Posture["custom:disk"] != "encrypted" || who.Posture["agentVersion"] != "test" {
		t.Errorf("the ledger sees posture %v", who.Posture)
	}
	if got := who.Capabilities["acme.example/ledger"]; len(got) != 1 || string(got[0]) != `{"role":"clerk"}` {
		t.Errorf("the ledger is told that alice may %s", got)
	}
	report("plain")
	alice.stop()
	m.up("alice", dir, func(c *Config) { c.Posture = file }).wait("alice knows the ledger again", hasPeer("ledger"))
	select {
	case <-ended:
	case <-time.After(within):
		t.Error("the ledger's server still has the connection")
	}
	ledger.wait("the ledger knows what alice reports now", func(*localapi.Status) bool {
		return ledger.whois(t, s.Addrs[0]).Posture["custom:disk"] == "plain"
	})
	if who := ledger.whois(t, s.Addrs[0]); len(who.Capabilities) != 0 {
		t.Errorf("alice may %s although the rule does not hold", who.Capabilities)
	}
}

func (a *agent) whois(t *testing.T, addr netip.Addr) *localapi.Whois {
	t.Helper()
	w, err := a.Whois(t.Context(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return w
}
