package admit

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/policy/reach"
)

// TestDifferenceForetellsWhoIsOut draws two policies, and nodes that the first
// admits. The difference between the policies names those, and only those, whose
// admissions no longer stand under the second.
func TestDifferenceForetellsWhoIsOut(t *testing.T) {
	var keys []key.IdentityPublic
	for i := range 3 {
		keys = append(keys, key.IdentityPrivateFromSeed([32]byte{byte(i + 1)}).Public())
	}
	secrets := []key.EnrolPublic{key.NewEnrol().Public(), key.NewEnrol().Public()}
	rapid.Check(t, func(t *rapid.T) {
		_, before := drawStanding(t, "base", keys, secrets)
		head, after := drawStanding(t, "head", keys, secrets)
		var nodes []*papers.Admission
		for _, pin := range before.Pins {
			if rapid.Bool().Draw(t, "has joined") {
				ad := &papers.Admission{Name: pin.Name, Identity: pin.Key, Tags: pin.Tags, IPv4: pin.Address4, Basis: papers.Basis{Kind: "pin", Name: pin.Name}}
				if pin.User != "" {
					ad.User = &acl.User{Email: pin.User, Issuer: Issuer, Subject: pin.User}
				}
				if !ad.IPv4.IsValid() {
					ad.IPv4 = rapid.SampledFrom([]netip.Addr{addr("100.64.0.1"), addr("100.64.0.2"), addr("100.64.0.3")}).Draw(t, "leased")
				}
				nodes = append(nodes, ad)
			}
		}
		for _, e := range before.Enrolments {
			if rapid.Bool().Draw(t, "has enrolled") {
				nodes = append(nodes, &papers.Admission{
					Name: "server-" + e.Name, Identity: key.NewIdentity().Public(), Tags: e.Tags, IPv4: addr("100.64.0.9"),
					Basis: papers.Basis{Kind: "enrolment", Name: e.Name},
				})
			}
		}
		inv := &reach.Inventory{}
		want, got := []string{}, []string{}
		for _, ad := range nodes {
			n := reach.Admitted{Name: ad.Name, ID: ad.Identity.NodeID(), Tags: ad.Tags, Basis: ad.Basis.String(), Address4: ad.IPv4}
			if ad.User != nil {
				n.User = ad.User.Email
			}
			inv.Nodes = append(inv.Nodes, n)
			if head.gone(ad) != "" {
				want = append(want, ad.Name)
			}
		}
		for _, a := range reach.Diff(reach.Side{Policy: before, Inventory: inv}, reach.Side{Policy: after, Inventory: inv}, time.Unix(1_800_000_000, 0)).Admission {
			if len(a.Nodes) > 0 && a.Effect != reach.PutsOut {
				t.Errorf("%s: got effect %q, want %q", a.Text, a.Effect, reach.PutsOut)
			}
			got = append(got, a.Nodes...)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("got %v out, want %v\nbase %+v\nhead %+v\nnodes %+v", got, want, before, after, inv.Nodes)
		}
	})
}

// drawStanding draws what a policy says about admission, as admission reads it
// and as differences do.
func drawStanding(t *rapid.T, label string, keys []key.IdentityPublic, secrets []key.EnrolPublic) (*Standing, *reach.Compiled) {
	s := &Standing{Pins: map[string]leaf.Node{}, Enrolments: map[string]leaf.Enrolment{}}
	c := &reach.Compiled{}
	tags := rapid.SampledFrom([][]string{{"a"}, {"b"}, {"a", "b"}})
	for i, name := range []string{"one", "two"} {
		if rapid.IntRange(0, 3).Draw(t, label+" pin "+name) == 0 {
			continue
		}
		pin := leaf.Node{Name: name, Key: keys[2]}
		if i == 0 { // no policy pins a key twice
			pin.Key = rapid.SampledFrom(keys[:2]).Draw(t, label+" key")
		}
		if rapid.Bool().Draw(t, label+" has a user") {
			pin.User = rapid.SampledFrom([]string{"alice@acme.example", "bob@acme.example"}).Draw(t, label+" user")
		} else {
			pin.Tags = tags.Draw(t, label+" tags")
		}
		pin.Address4 = rapid.SampledFrom([]netip.Addr{{}, addr("100.64.0.1"), addr("100.64.0.2")}).Draw(t, label+" address")
		s.Pins[name] = pin
		c.Pins = append(c.Pins, pin)
	}
	for _, name := range []string{"db", "web"} {
		if rapid.IntRange(0, 3).Draw(t, label+" entry "+name) == 0 {
			continue
		}
		e := leaf.Enrolment{
			Name: name, Key: rapid.SampledFrom(secrets).Draw(t, label+" secret"), Tags: tags.Draw(t, label+" tags"),
			Names: rapid.SampledFrom([][]string{{"*"}, {"db-*"}}).Draw(t, label+" names"),
		}
		s.Enrolments[name] = e
		c.Enrolments = append(c.Enrolments, e)
	}
	return s, c
}
