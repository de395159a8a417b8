package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

// A program is the relay's own main, run in this process.
type program struct {
	log    *watched
	cancel context.CancelFunc
	code   chan int
}

// serve runs the relay of that state directory until stop, or the test's end.
func serve(t *testing.T, dir string, join papers.JoinString) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{&watched{grown: make(chan struct{}, 1)}, cancel, make(chan int, 1)}
	go func() {
		p.code <- command(ctx, []string{"--state", dir, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--join", join.String()}, io.Discard, p.log)
		close(p.code)
	}()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *program) stop() int {
	p.cancel()
	return <-p.code
}

// policy is a revision's that names the relay of the state directory.
func policy(t *testing.T, dir string) netmaptest.Policy {
	t.Helper()
	id, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return netmaptest.Policy{Relays: []leaf.Relay{{Name: "one", Addr: "relay.test:443", Key: id.Public()}}}
}

// answered waits until the relay has welcomed or refused the client; one that is
// not ready yet is asked again at once.
func answered(t *testing.T, c *client.Client) client.State {
	t.Helper()
	return relaytest.WaitFor(t, c, func(s client.State) bool {
		if refusal(s) == frame.NotReady && s.Phase == client.Waiting {
			c.Kick()
		}
		return s.Connects > 0 || refusal(s) != 0 && refusal(s) != frame.NotReady
	})
}

// refusal is why the relay refused the client last; 0 if it did not.
func refusal(s client.State) frame.Kind {
	var r *frame.Refusal
	if errors.As(s.LastError, &r) {
		return r.Kind
	}
	return 0
}

// connected waits until the relay has welcomed the node.
func connected(t *testing.T, c *client.Client) client.State {
	t.Helper()
	s := answered(t, c)
	if s.Phase != client.Connected {
		t.Fatalf("refused: %v, want welcome", s.LastError)
	}
	return s
}

// kept waits until the relay has refused the node, which it must not welcome.
func kept(t *testing.T, c *client.Client, want frame.Kind) {
	t.Helper()
	s := answered(t, c)
	if s.Connects != 0 || refusal(s) != want {
		t.Fatalf("%d times welcome, then %v; want %v", s.Connects, s.LastError, want)
	}
}

// cut waits until the relay has ended the connection of a node that it welcomed.
func cut(t *testing.T, c *client.Client, want frame.Kind) {
	t.Helper()
	s := relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Waiting })
	if s.Connects != 1 || refusal(s) != want {
		t.Errorf("%d times welcome, then %v; want once, and %v", s.Connects, s.LastError, want)
	}
}

func TestRelayAdmitsTheNodesOfItsNetwork(t *testing.T) {
	dir := t.TempDir()
	w := netmaptest.New(t, time.Now())
	db, eve, out := w.Admit("db", "tag:db"), w.Admit("eve", "eve@acme.example"), w.Admit("out", "tag:db")
	guest, late := w.Admit("guest", "guest@acme.example"), w.Admit("late", "late@acme.example")
	until := w.Now.Add(time.Hour)
	for n, end := range map[*netmaptest.Node]time.Time{guest: until, late: w.Now.Add(-time.Hour)} {
		a := *n.Admission
		a.Expires = end
		w.SignAdmission(n, a)
	}
	other := netmaptest.New(t, time.Now())
	alien := other.Admit("db", "tag:db")
	w.End(out.ID)

	co := coordtest.Start(t, w)
	co.Publish(w.Publish(policy(t, dir)))
	relay := serve(t, dir, co.JoinString())

	// What the node's admission says of its end is what the node is told; one
	// without an end is told the last second that there is.
	c, _ := nodeWith(t, relay.log, db.Key, db.Papers.Admission)
	if s := connected(t, c); !s.Until.Equal(forever) {
		t.Errorf("an admission without an end: until %v, want %v", s.Until, forever)
	}
	g, _ := nodeWith(t, relay.log, guest.Key, guest.Papers.Admission)
	if s := connected(t, g); !s.Until.Equal(until) {
		t.Errorf("until %v, want %v", s.Until, until)
	}
	flipped := bytes.Replace(db.Papers.Admission, []byte("name db"), []byte("name dc"), 1)
	for _, x := range []struct {
		name  string
		key   key.IdentityPrivate
		shown []byte
		want  frame.Kind
	}{
		{"a stranger with another node's admission", key.NewIdentity(), db.Papers.Admission, frame.NotAdmitted},
		{"a stranger with its record alone", eve.Key, eve.Papers.Record, frame.NotAdmitted},
		{"a node of another network", alien.Key, alien.Papers.Admission, frame.NotAdmitted},
		{"an admission that was changed", db.Key, flipped, frame.NotAdmitted},
		{"a node on the ended list", out.Key, out.Papers.Admission, frame.Revoked},
		{"a node whose session is over", late.Key, late.Papers.Admission, frame.Ended},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, _ := nodeWith(t, relay.log, x.key, x.shown)
			kept(t, c, x.want)
		})
	}

	// A newer ended list cuts a connection that stands, and no other.
	e, _ := nodeWith(t, relay.log, eve.Key, eve.Papers.Admission)
	connected(t, e)
	w.Advance(time.Second)
	w.End(eve.ID)
	co.PutEnded()
	cut(t, e, frame.Revoked)
	if s := g.State(); s.Phase != client.Connected || s.Connects != 1 {
		t.Errorf("another node is %v after %d connections, want connected, 1", s.Phase, s.Connects)
	}
	if code := relay.stop(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestRelayAdmitsFromItsStateWithoutACoordinator(t *testing.T) {
	dir := t.TempDir()
	w := netmaptest.New(t, time.Now())
	db, eve := w.Admit("db", "tag:db"), w.Admit("eve", "eve@acme.example")
	co := coordtest.Start(t, w)
	co.Publish(w.Publish(policy(t, dir)))

	relay := serve(t, dir, co.JoinString())
	e, _ := nodeWith(t, relay.log, eve.Key, eve.Papers.Admission)
	connected(t, e)
	w.Advance(time.Second)
	w.End(eve.ID)
	co.PutEnded()
	cut(t, e, frame.Revoked)
	relay.stop()
	co.Stop()

	t.Run("restarted", func(t *testing.T) {
		relay := serve(t, dir, co.JoinString())
		c, _ := nodeWith(t, relay.log, db.Key, db.Papers.Admission)
		connected(t, c)
		e, _ := nodeWith(t, relay.log, eve.Key, eve.Papers.Admission)
		kept(t, e, frame.Revoked)
	})

	name := filepath.Join(dir, "netmap.state")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string][]byte{
		"empty": nil, "truncated": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0),
		"flipped": append(bytes.Clone(whole[:len(whole)-9]), append([]byte{whole[len(whole)-9] ^ 1}, whole[len(whole)-8:]...)...),
	}
	for what, b := range damage {
		t.Run(what+" beside a whole copy", func(t *testing.T) {
			writeState(t, name, b)
			writeState(t, name+".prev", whole)
			relay := serve(t, dir, co.JoinString())
			if got := relay.log.find(t, `msg="state file damaged" err="([^"]*)"`); !strings.Contains(got, name+" is damaged") || !strings.Contains(got, name+".prev") {
				t.Errorf("log says %q, want it to name %s and the copy", got, name)
			}
			c, _ := nodeWith(t, relay.log, db.Key, db.Papers.Admission)
			connected(t, c)
			e, _ := nodeWith(t, relay.log, eve.Key, eve.Papers.Admission)
			kept(t, e, frame.Revoked)
		})
		t.Run(what+" without one", func(t *testing.T) {
			writeState(t, name, b)
			writeState(t, name+".prev", b)
			var stderr bytes.Buffer
			args := []string{"--state", dir, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--join", co.JoinString().String()}
			if code := command(t.Context(), args, io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), "state file "+name+" is damaged") {
				t.Errorf("exit code %d, %q; want 2 and the file named", code, stderr.String())
			}
			if got, _ := os.ReadFile(name); !bytes.Equal(got, b) {
				t.Error("the damaged file was changed")
			}
		})
	}
	t.Run("of another network", func(t *testing.T) {
		writeState(t, name, whole)
		var stderr bytes.Buffer
		join := co.JoinString()
		join.Network = key.NetworkID{1}
		args := []string{"--state", dir, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--join", join.String()}
		if code := command(t.Context(), args, io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), name+": read state: of network "+w.Network.String()) {
			t.Errorf("exit code %d, %q; want 2 and both networks", code, stderr.String())
		}
	})
}

// A relay that holds root documents alone does not know who is out.
func TestRelayWithoutARevisionIsNotReady(t *testing.T) {
	w := netmaptest.New(t, time.Now())
	db := w.Admit("db", "tag:db")
	co := coordtest.Start(t, w)
	dir := t.TempDir()
	revision := policy(t, dir)
	id, err := loadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNetwork(dir, co.JoinString(), id, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), coordtest.Timeout)
	defer cancel()
	changed, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- n.Follow(ctx, func() {
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	// holds waits for a change after which the relay holds what is asked for.
	holds := func(what string, ok func(*netmap.State) bool) {
		t.Helper()
		for !ok(n.follower.State()) {
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("the relay has no %s", what)
			}
		}
	}
	holds("root document", func(s *netmap.State) bool { return s.Root() != nil })
	var r *frame.Refusal
	if _, err := n.Admit(db.Key.Public(), db.Papers.Admission); !errors.As(err, &r) || r.Kind != frame.NotReady {
		t.Errorf("root documents alone: %v, want not ready", err)
	}
	co.Publish(w.Publish(revision))
	holds("revision", func(s *netmap.State) bool { return s.Manifest() != nil })
	if until, err := n.Admit(db.Key.Public(), db.Papers.Admission); err != nil || !until.Equal(forever) {
		t.Errorf("with a revision: until %v, %v; want %v", until, err, forever)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("follow: %v", err)
	}
}

func writeState(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
