package publish

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/trust"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func keysOf(w *netmaptest.World) Keys { return Keys{w.PolicyKey, w.AdmissionKey} }

func open(t *testing.T, dir string, w *netmaptest.World) *Publisher {
	t.Helper()
	p, err := Open(dir, keysOf(w), w.Root)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func commit(n int) trust.Commit { return trust.Commit(fmt.Sprintf("%040x", n)) }

// compiled is commit n of a policy in which these users are in group a.
func compiled(t *testing.T, n int, users string) Compiled {
	t.Helper()
	c := Compiled{Commit: commit(n), Source: key.HashOf([]byte(users)), Compiler: "writ/test", Origins: fmt.Appendf(nil, "origins %d", n)}
	add := func(name string, content any) {
		l, err := leaf.Encode(name, content)
		if err != nil {
			t.Fatal(err)
		}
		c.Leaves = append(c.Leaves, l)
	}
	add(leaf.NameNetwork, leaf.Network{Name: "acme", Domain: "acme.mesh", Prefix4: netip.MustParsePrefix("100.64.0.0/10")})
	add(leaf.NameRelays, leaf.Relays{Relays: []leaf.Relay{}})
	for _, u := range strings.Fields(users) {
		who, groups, _ := strings.Cut(u, ":")
		p := leaf.Principal{Principal: acl.Selector{Kind: acl.KindUser, Name: who + "@acme.example"}}
		for _, g := range strings.Split(groups, ",") {
			p.Groups = append(p.Groups, acl.Membership{Group: g})
		}
		add(leaf.PrincipalName(p.Principal), p)
	}
	slices.SortFunc(c.Leaves, func(a, b leaf.Leaf) int { return strings.Compare(a.Name, b.Name) })
	return c
}

func decide(t *testing.T, p *Publisher, c Compiled, now time.Time) *Revision {
	t.Helper()
	r, err := p.Decide(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func notes(t *testing.T, p *Publisher, r *Revision) (manifest, ended string) {
	t.Helper()
	m, e, err := p.Notes(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(m), string(e)
}

func ids(n int) (out []key.NodeID) {
	for range n {
		out = append(out, key.NewIdentity().Public().NodeID())
	}
	return out
}
