package reach

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// TestHoursAddUp: what two rules say together is what one says.
func TestHoursAddUp(t *testing.T) {
	window := func(days acl.Days, start, end uint16, zone string) acl.Hours {
		return acl.Hours{{Days: days, Start: start, End: end, Zone: zone}}
	}
	const early, late, workdays = acl.Days(0b0001110), acl.Days(0b0110000), acl.Days(0b0111110)
	linux := acl.Condition{Attr: "os", Op: acl.OpIn, Values: []string{"linux"}}
	other := acl.Condition{Attr: "os", Op: acl.OpNotIn, Values: []string{"linux"}}
	at := func(min string) acl.Posture {
		return acl.Posture{{Attr: "osVersion", Op: acl.OpLeast, Values: []string{min}}}
	}
	for _, x := range []struct {
		name string
		a    []acl.Grant
		b    acl.Grant
		same bool
		when []string
	}{
		{"days", []acl.Grant{{Hours: window(early, 540, 1020, "UTC")}, {Hours: window(late, 540, 1020, "UTC")}}, acl.Grant{Hours: window(workdays, 540, 1020, "UTC")}, true, []string{"mon-fri 09:00-17:00 UTC"}},
		{"a day short", []acl.Grant{{Hours: window(early, 540, 1020, "UTC")}}, acl.Grant{Hours: window(workdays, 540, 1020, "UTC")}, false, []string{"mon-wed 09:00-17:00 UTC"}},
		{"the whole week", []acl.Grant{{Hours: window(acl.EveryDay, 0, 720, "UTC")}, {Hours: window(acl.EveryDay, 720, 1440, "UTC")}}, acl.Grant{}, true, nil},
		{"over midnight", []acl.Grant{{Hours: window(workdays, 1320, 360, "UTC")}}, acl.Grant{Hours: window(workdays, 1320, 1440, "UTC")}, false, []string{"mon-fri 22:00-06:00 UTC"}},
		{"half here, half there", []acl.Grant{{Hours: window(acl.EveryDay, 0, 720, "UTC")}, {Hours: window(acl.EveryDay, 840, 120, "Asia/Kolkata")}}, acl.Grant{}, false, nil},
		{"zones overlap", []acl.Grant{{Hours: window(acl.EveryDay, 0, 900, "UTC")}, {Hours: window(acl.EveryDay, 840, 420, "Europe/Berlin")}}, acl.Grant{}, true, nil},
		{"a weaker posture", []acl.Grant{{Posture: acl.Postures{at("14")}}, {Posture: acl.Postures{at("13")}}}, acl.Grant{Posture: acl.Postures{at("13.0")}}, true, nil},
		{"any system that is reported", []acl.Grant{{Posture: acl.Postures{{linux}, {other}}}}, acl.Grant{Posture: acl.Postures{{{Attr: "os", Op: acl.OpSet}}}}, true, nil},
		{"any system", []acl.Grant{{Posture: acl.Postures{{linux}, {other}}}}, acl.Grant{}, false, nil},
		{"an end", []acl.Grant{{Until: noon}, {Until: noon.AddDate(0, 0, 1)}}, acl.Grant{Until: noon.AddDate(0, 0, 1)}, true, nil},
	} {
		c := newConds()
		sum := never
		for i := range x.a {
			sum = c.union(sum, c.of(&x.a[i]))
		}
		one := c.of(&x.b)
		if same := sum == one || c.equal(sum, one); same != x.same {
			t.Errorf("%s: the same is %t, want %t", x.name, same, x.same)
		}
		if got := c.words(sum).when; x.when != nil && !slices.Equal(got, x.when) {
			t.Errorf("%s: got %q, want %q", x.name, got, x.when)
		}
	}
}

func TestCoverageCounts(t *testing.T) {
	ports := func(s string) []acl.Ports {
		p, err := acl.ParsePorts(s)
		if err != nil {
			t.Fatal(err)
		}
		return []acl.Ports{p}
	}
	grant := func(rule, from, on string) acl.Grant {
		return acl.Grant{Rule: rule, From: selectors([]string{from}), Allow: ports(on)}
	}
	c := &Compiled{Inbound: []acl.Inbound{
		{To: selector("tag:s"), Grants: []acl.Grant{grant("first", "a@x", "tcp/80"), grant("second", "b@x", "tcp/80")}},
		{To: selector("tag:t"), Grants: []acl.Grant{grant("third", "a@x", "tcp/443")}},
	}}
	ask := func(from, to, on string, outside bool) Question {
		return Question{From: refsOf(from), To: refsOf(to), Ports: ports(on), At: noon, Outside: outside}
	}
	allow, only := ask("a@x", "tag:s", "tcp/80", false), ask("a@x", "tag:t", "tcp/443", true)
	w := NewWorld(c, nil, []Question{allow, only})
	v := w.NewCoverage()
	v.Allow(allow)
	if got, want := v.Report(), (Report{Rules: 3, RulesWitnessed: 1, Unwitnessed: []string{"second", "third"}, Cells: 3, CellsWitnessed: 1}); !sameReport(got, want) {
		t.Errorf("an allow: got %+v, want %+v", got, want)
	}
	v.Bound(only)
	if got, want := v.Report(), (Report{Rules: 3, RulesWitnessed: 2, Unwitnessed: []string{"second"}, Cells: 3, CellsWitnessed: 2}); !sameReport(got, want) {
		t.Errorf("an only, too: got %+v, want %+v", got, want)
	}
}

func refsOf(s string) []model.Ref { return []model.Ref{{Selector: selector(s)}} }

func sameReport(a, b Report) bool {
	return a.Rules == b.Rules && a.RulesWitnessed == b.RulesWitnessed && a.Cells == b.Cells && a.CellsWitnessed == b.CellsWitnessed && slices.Equal(a.Unwitnessed, b.Unwitnessed)
}

// TestManyConditionsTakeNoAges: rules that each hold at many hours and for many
// postures give one condition that nobody can look at pair by pair.
func TestManyConditionsTakeNoAges(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "Europe/London", "Asia/Tokyo", "Asia/Kolkata", "America/New_York", "America/Denver", "Australia/Sydney"}
	c := &Compiled{Inbound: []acl.Inbound{{To: selector("tag:db")}}}
	for r := range 100 {
		g := acl.Grant{Rule: fmt.Sprintf("r%02d", r), From: selectors([]string{"a@x"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}
		for k, z := range zones {
			g.Hours = append(g.Hours, acl.Window{Days: 1 << ((k + r) % 7), Start: uint16((k + r) * 7 % 1440), End: uint16((k+r)*7%1440 + 60), Zone: z})
		}
		for p := range 16 {
			n := r*16 + p
			g.Posture = append(g.Posture, acl.Posture{is(acl.OpLeast, fmt.Sprint(n)), is(acl.OpLess, fmt.Sprint(n+3, ".", n%7)), {Attr: "custom:a", Op: acl.OpIn, Values: []string{fmt.Sprint(n)}}})
		}
		c.Inbound[0].Grants = append(c.Inbound[0].Grants, g)
	}
	begun := time.Now()
	d := Diff(Side{}, Side{Policy: c}, noon)
	if len(d.Gained) == 0 || len(d.Gained[0].When) != 65 {
		t.Fatalf("gained %+v, want one change with a few of its conditions", d.Gained)
	}
	if got := NewWorld(c, nil, []Question{{At: noon}}).Redundant(); len(got) > 0 {
		t.Errorf("%d rules are redundant, want none", len(got))
	}
	less := *c
	less.Inbound = []acl.Inbound{{To: c.Inbound[0].To, Grants: c.Inbound[0].Grants[1:]}}
	if d := Diff(Side{Policy: c}, Side{Policy: &less}, noon); len(d.Lost) == 0 {
		t.Error("a rule less: nothing is lost, want something")
	}
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("it took %s, want seconds", took)
	}
}

// TestManyTermsAreTheOracle has conditions kept in parts from the second term on.
func TestManyTermsAreTheOracle(t *testing.T) {
	was := mostTerms
	t.Cleanup(func() { mostTerms = was })
	mostTerms = 1
	rapid.Check(t, checkDiff)
}
