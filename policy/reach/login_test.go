package reach_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/policy/reach"
)

var loginAt = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// entries are the admission's texts between two policies, with their effects and
// whom they put out.
func entries(list []reach.Admission) (out []string) {
	for _, a := range list {
		text := a.Kind + " " + a.Name + " " + a.Change
		if a.Effect != "" {
			text += " " + a.Effect
		}
		for _, n := range a.Nodes {
			text += " " + n
		}
		out = append(out, text+": "+a.Text)
	}
	return out
}

func TestLoginChanges(t *testing.T) {
	provider := func(issuer string, members ...string) leaf.Identity {
		return leaf.Identity{Name: "acme", Issuer: issuer, ClientID: "writ", Members: members}
	}
	policy := func(session int64, list ...leaf.Identity) *reach.Compiled {
		return &reach.Compiled{Prefix4: netip.MustParsePrefix("100.64.0.0/10"), Session: session, Identity: list}
	}
	inv := &reach.Inventory{Nodes: []reach.Admitted{
		{Name: "laptop", User: "alice@acme.example", Basis: "identity acme"},
		{Name: "guest", User: "zoe@partner.example", Basis: "identity acme"},
		{Name: "other", User: "zoe@partner.example", Basis: "identity other"},
		{Name: "pinned", User: "bob@partner.example", Basis: "pin pinned"},
	}}
	one := provider("https://a.example", "*@acme.example", "*@partner.example")
	for _, c := range []struct {
		name       string
		base, head *reach.Compiled
		inv        *reach.Inventory
		want       []string
	}{
		{"the same", policy(3600, one), policy(3600, one), inv, nil},
		{"new", policy(0), policy(0, one), inv, []string{
			"identity acme added in: whoever https://a.example knows as *@acme.example, *@partner.example may log in"}},
		{"gone", policy(0, one), policy(0), inv, []string{
			`identity acme removed out guest laptop: guest, laptop are out: identity "acme" is gone`}},
		{"gone, and nobody knows who is in", policy(0, one), policy(0), nil, []string{
			`identity acme removed out: whoever logged in by identity "acme" and may not now is out: it is gone`}},
		{"fewer people", policy(0, one), policy(0, provider("https://a.example", "*@acme.example")), inv, []string{
			`identity acme changed out guest: guest is out: identity "acme" is no longer for *@partner.example`}},
		{"a pattern that others hold", policy(0, one), policy(0, provider("https://a.example", "*@*.example")), inv, []string{
			`identity acme changed out: nobody whom it is about may log in by identity "acme" any more: it is no longer for *@acme.example, *@partner.example`,
			"identity acme changed in: whoever https://a.example knows as *@*.example may log in"}},
		{"more people", policy(0, provider("https://a.example", "*@acme.example")), policy(0, one), inv, []string{
			"identity acme changed in: whoever https://a.example knows as *@partner.example may log in"}},
		{"another provider", policy(0, one), policy(0, provider("https://b.example", "*@acme.example")), inv, []string{
			`identity acme changed out guest laptop: guest, laptop are out: identity "acme" is another provider, https://b.example`,
			"identity acme changed in: whoever https://b.example knows as *@acme.example may log in"}},
		{"a longer session", policy(12*3600, one), policy(720*3600+90, one), inv, []string{
			"session session changed: a login lasts 720h1m30s; before, 12h"}},
		{"a session of minutes", policy(0, one), policy(90*60, one), inv, []string{
			"session session changed: a login lasts 1h30m; before, as long as whoever admits decides"}},
	} {
		d := reach.Diff(reach.Side{Policy: c.base, Inventory: c.inv}, reach.Side{Policy: c.head, Inventory: c.inv}, loginAt)
		if diff := cmp.Diff(c.want, entries(d.Admission)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestApprovals(t *testing.T) {
	tag := func(name string) acl.Selector { return acl.Selector{Kind: acl.KindTag, Name: name} }
	group := acl.Selector{Kind: acl.KindGroup, Name: "routers"}
	office := netip.MustParsePrefix("10.20.0.0/16")
	policy := func(members []acl.Selector, routes ...acl.Route) *reach.Compiled {
		c := &reach.Compiled{Routes: routes, Principals: map[acl.Selector][]acl.Membership{}}
		for _, m := range members {
			c.Principals[m] = []acl.Membership{{Group: "routers"}}
		}
		return c
	}
	offers := func(prefixes ...string) (r reach.Routes) {
		for _, p := range prefixes {
			r.Advertised = append(r.Advertised, netip.MustParsePrefix(p))
		}
		return r
	}
	inv := &reach.Inventory{Nodes: []reach.Admitted{
		{Name: "one", Tags: []string{"tag:office"}, Routes: offers("10.20.1.0/24")},
		{Name: "two", Tags: []string{"office"}, Routes: offers("10.20.0.0/16", "0.0.0.0/0")},
		{Name: "three", Tags: []string{"gate"}, Routes: offers("10.0.0.0/8")}, // more than is approved
	}}
	by := func(via ...acl.Selector) acl.Route { return acl.Route{Prefix: office, Via: via} }
	for _, c := range []struct {
		name       string
		base, head *reach.Compiled
		want       []string
	}{
		{"the same", policy(nil, by(tag("office"))), policy(nil, by(tag("office"))), nil},
		{"no policy before", nil, policy(nil, by(tag("gate"))), []string{
			"route 10.20.0.0/16 added: tag:gate may forward to 10.20.0.0/16"}},
		{"new", policy(nil), policy(nil, by(tag("office")), acl.Route{Exit: true, Via: []acl.Selector{tag("office")}}), []string{
			"route 10.20.0.0/16 added: tag:office may forward to 10.20.0.0/16 (one, two offer it)",
			"exit exit added: tag:office may forward to the internet (two offers it)"}},
		{"gone", policy(nil, by(tag("office"))), policy(nil), []string{
			"route 10.20.0.0/16 removed: tag:office may no longer forward to 10.20.0.0/16 (one, two offer it)"}},
		{"by others", policy(nil, by(tag("office"))), policy(nil, by(tag("gate"))), []string{
			"route 10.20.0.0/16 changed: tag:gate may forward to 10.20.0.0/16, and no longer tag:office"}},
		{"a group is others", policy([]acl.Selector{tag("gate")}, by(group)), policy([]acl.Selector{tag("office")}, by(group)), []string{
			"route 10.20.0.0/16 changed: one, two may forward to 10.20.0.0/16"}},
		{"a group is nobody", policy([]acl.Selector{tag("office")}, by(group)), policy(nil, by(group)), []string{
			"route 10.20.0.0/16 changed: one, two may no longer forward to 10.20.0.0/16"}},
	} {
		list := reach.Approvals(c.base, c.head, inv, loginAt)
		reach.SortAdmission(list)
		if diff := cmp.Diff(c.want, entries(list)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
