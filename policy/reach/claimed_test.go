package reach

import (
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
)

// TestExceptionOfAUserWithAClaim: that an exception is lifted gives something to
// the user if a token has the claim, which nobody but its issuer knows.
func TestExceptionOfAUserWithAClaim(t *testing.T) {
	policy := func(except, toExcept string) *Compiled {
		c := &Compiled{Principals: map[acl.Selector][]acl.Membership{
			selector("claim:groups=ops"): {{Group: "ops"}},
			selector("zed@x"):            {{Group: "con"}},
			selector("yan@x"):            {{Group: "con"}},
		}}
		g := acl.Grant{Rule: "r", From: selectors([]string{"group:ops"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}
		if except != "" {
			g.Except = selectors([]string{except})
		}
		back := acl.Grant{Rule: "back", From: selectors([]string{"tag:db"}), Allow: []acl.Ports{{Range: acl.RangeAll}}}
		if toExcept != "" {
			back.ToExcept = selectors([]string{toExcept})
		}
		c.Inbound = []acl.Inbound{{To: selector("tag:db"), Grants: []acl.Grant{g}}, {To: selector("group:ops"), Grants: []acl.Grant{back}}}
		return c
	}
	for _, x := range []struct {
		name, was, wasTo, is, isTo string
		gained                     string
	}{
		{"a user", "zed@x", "", "", "", "group:con+zed@x with claim:groups=ops → tag:db"},
		{"a group", "group:con", "", "", "", "group:con with claim:groups=ops → tag:db"},
		{"a group but one", "group:con", "", "zed@x", "", "group:con with claim:groups=ops → tag:db"},
		{"a destination", "", "group:con", "", "", "tag:db → group:con with claim:groups=ops"},
		{"nothing", "group:con", "", "group:con", "", ""},
	} {
		d := Diff(Side{Policy: policy(x.was, x.wasTo)}, Side{Policy: policy(x.is, x.isTo)}, noon)
		var got []string
		for _, c := range d.Gained {
			got = append(got, strings.Join(c.From, ", ")+" → "+strings.Join(c.To, ", "))
		}
		if text := strings.Join(got, "; "); len(d.Lost) > 0 || strings.ReplaceAll(text, "group:con+zed@x", "zed@x") != strings.ReplaceAll(x.gained, "group:con+zed@x", "zed@x") {
			t.Errorf("%s: gained %q and lost %+v, want %q", x.name, text, d.Lost, x.gained)
		}
		if len(d.Gained) > 0 {
			s := d.Gained[0].Sample
			was, is := policy(x.was, x.wasTo), policy(x.is, x.isTo)
			if was.Judge(s.From, s.To, s.Target, noon).Allowed || !is.Judge(s.From, s.To, s.Target, noon).Allowed {
				t.Errorf("%s: the sample %+v is no gain", x.name, s)
			}
		}
	}
	// Two rules: one more than the other, for such users only.
	c := policy("", "")
	c.Inbound[0].Grants = append(c.Inbound[0].Grants, acl.Grant{Rule: "less", From: selectors([]string{"group:ops"}), Except: selectors([]string{"zed@x"}), Allow: []acl.Ports{{Range: acl.RangeAll}}})
	var redundant []string
	for _, r := range NewWorld(c, nil, []Question{{At: noon}}).Redundant() {
		redundant = append(redundant, r.Rule)
	}
	if !slices.Equal(redundant, []string{"less"}) {
		t.Errorf("redundant: %q, want only the rule that gives less", redundant)
	}
	// A question says what it takes for granted.
	for _, x := range []struct {
		except, from string
		says         bool
	}{{"", "zed@x", true}, {"", "group:con", true}, {"group:con", "group:con", false}, {"zed@x", "group:con", true}, {"", "tag:web", false}, {"", "group:ops", false}, {"", "claim:groups=sec", true}} {
		c := policy(x.except, "")
		c.Principals[selector("claim:groups=sec")] = []acl.Membership{{Group: "sec"}}
		from := x.from
		if strings.HasPrefix(from, "claim:") {
			from = "group:sec"
		}
		q := Question{From: refsOf(from), To: refsOf("tag:db"), At: noon}
		w := NewWorld(c, nil, []Question{q})
		if got := w.Claims(q); (len(got) > 0) != x.says {
			t.Errorf("%s, except %q: says %q, want something: %t", x.from, x.except, got, x.says)
		}
	}
}
