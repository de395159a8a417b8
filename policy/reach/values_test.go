package reach

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
)

func is(op acl.Op, values ...string) acl.Condition {
	return acl.Condition{Attr: "osVersion", Op: op, Values: values}
}

// TestPosturesAreTheSameForEveryReport: what a node may report that one of two
// postures lets in and the other does not makes them differ, however odd it is.
func TestPosturesAreTheSameForEveryReport(t *testing.T) {
	for _, x := range []struct {
		name string
		a, b acl.Postures
		same bool
	}{
		{"another spelling", acl.Postures{{is(acl.OpIn, "14")}}, acl.Postures{{is(acl.OpLeast, "14"), is(acl.OpMost, "14")}}, false},
		{"between a version and the next that is written", acl.Postures{{is(acl.OpMost, "14")}}, acl.Postures{{is(acl.OpLess, "14.0.0.1")}}, false},
		{"zeros at the end", acl.Postures{{is(acl.OpMost, "14")}}, acl.Postures{{is(acl.OpMost, "14.0.0")}}, true},
		{"the lowest version", acl.Postures{{is(acl.OpLeast, "0")}}, acl.Postures{{is(acl.OpSet)}}, false},
		{"above zero and zero", acl.Postures{{is(acl.OpMore, "0")}, {is(acl.OpMost, "0.0")}}, acl.Postures{{is(acl.OpLeast, "0")}}, true},
		{"below zero", acl.Postures{{is(acl.OpLess, "0")}, {is(acl.OpIn, "14")}}, acl.Postures{{is(acl.OpIn, "14")}}, true},
		{"nothing meets it", acl.Postures{{is(acl.OpMore, "15"), is(acl.OpLess, "14")}}, nil, true},
		{"just something meets it", acl.Postures{{is(acl.OpMore, "14"), is(acl.OpLess, "14.0.0.0.0.1")}}, nil, false},
		{"the highest version that is written", acl.Postures{{is(acl.OpMore, "2147483647")}}, acl.Postures{{is(acl.OpMore, "2147483647"), is(acl.OpLess, "2147483647.9")}}, false},
		{"a version or none", acl.Postures{{is(acl.OpLess, "5")}, {is(acl.OpLeast, "5")}}, acl.Postures{{is(acl.OpSet)}}, false},
		{"all but one, and the one", acl.Postures{{is(acl.OpNotIn, "5")}, {is(acl.OpIn, "5")}}, acl.Postures{{is(acl.OpSet)}}, true},
		{"a comma in a value", acl.Postures{{is(acl.OpIn, "a, b")}}, acl.Postures{{is(acl.OpIn, "a", "b")}}, false},
		{"a condition in a value", acl.Postures{{is(acl.OpIn, "a and os is reported")}}, acl.Postures{{is(acl.OpIn, "a"), {Attr: "os", Op: acl.OpSet}}}, false},
	} {
		c := newConds()
		a, b := c.of(&acl.Grant{Posture: x.a}), never
		if x.b != nil {
			b = c.of(&acl.Grant{Posture: x.b})
		}
		if same := c.equal(a, b); same != x.same {
			t.Errorf("%s: the same is %t, want %t", x.name, same, x.same)
		}
		e := &engine{holds: map[string]cond{}, conds: c}
		if e.condOf(&acl.Grant{Posture: x.a}) != a || x.b != nil && e.condOf(&acl.Grant{Posture: x.b}) != b {
			t.Errorf("%s: a grant has another condition the second time", x.name)
		}
	}
}

// TestValuesTellAllApart: whatever is reported meets the same of some conditions as
// one of the values does, as package acl judges.
func TestValuesTellAllApart(t *testing.T) {
	number := rapid.SampledFrom([]string{"0", "00", "1", "13", "14", "014", "2147483647", "2147483648"})
	version := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(number, 1, 6).Draw(t, "numbers"), ".") })
	text := rapid.OneOf(version, rapid.SampledFrom([]string{"other", "other'", "linux", "14.", "-1", "+1", "1e3", "v14"}))
	rapid.Check(t, func(t *rapid.T) {
		var list []acl.Condition
		for range rapid.IntRange(1, 5).Draw(t, "conditions") {
			op := rapid.SampledFrom([]acl.Op{acl.OpIn, acl.OpNotIn, acl.OpSet, acl.OpLess, acl.OpMost, acl.OpMore, acl.OpLeast}).Draw(t, "op")
			c := is(op)
			switch op {
			case acl.OpIn, acl.OpNotIn:
				c.Values = rapid.SliceOfN(text, 1, 3).Draw(t, "values")
			case acl.OpSet:
			default:
				c.Values = []string{version.Draw(t, "version")}
			}
			if c.Check() == nil {
				list = append(list, c)
			}
		}
		met := func(v string) (out []bool) {
			for _, c := range list {
				out = append(out, (acl.Posture{c}).Met(map[string]string{"osVersion": v}))
			}
			return out
		}
		values := telling(list)
		for range 20 {
			v := text.Draw(t, "reported")
			if rapid.Bool().Draw(t, "near") && len(values) > 0 { // one of those, a little higher or written otherwise
				v = rapid.SampledFrom(values).Draw(t, "near which") + rapid.SampledFrom([]string{"", ".0", ".0.0.0.1", ".1", ".0.0.0.0.0.0.0.0.0.1"}).Draw(t, "how")
			}
			want := met(v)
			if !slices.ContainsFunc(values, func(s string) bool { return slices.Equal(met(s), want) }) {
				t.Fatalf("%v: nothing among %q meets what %q does: %v", list, values, v, want)
			}
		}
	})
}
