package reach

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// postureKey tells postures apart that are not written alike. What people read does
// not: a value may hold a comma.
func postureKey(p acl.Posture) string {
	var k strings.Builder
	for _, c := range p {
		fmt.Fprintf(&k, "%q %q %q;", c.Attr, c.Op, c.Values)
	}
	return k.String()
}

// telling are values of one attribute, such that each value that a node may report
// meets the same of the conditions as one of them does.
//
// A condition looks at a value as a text, which is one of its literals or none, or
// as a version, which is below, at or above its own. So they are each literal; a
// text that is neither a literal nor a version; and of the versions that the
// comparisons name, in order, one below them all, one at each, and one just above
// each, in a spelling that is no literal: a version has many, as zeros at its end
// say nothing. One that is just above another is that, more zeros than any of the
// versions has numbers, and a one: nothing named is between the two.
func telling(conditions []acl.Condition) (out []string) {
	var cuts [][]int
	longest := 0
	for _, c := range conditions {
		if v, ok := versionOf(c); ok {
			cuts = append(cuts, v)
			longest = max(longest, len(v))
		} else {
			out = append(out, c.Values...)
		}
	}
	slices.Sort(out)
	literals := slices.Compact(out)
	out = slices.Clip(literals)
	other := "other"
	for slices.Contains(literals, other) {
		other += "'"
	}
	out = append(out, other)
	spell := func(v []int) {
		var parts []string
		for _, n := range v {
			parts = append(parts, strconv.Itoa(n))
		}
		text := strings.Join(parts, ".")
		if len(v) == 0 {
			text = "0"
		}
		for slices.Contains(literals, text) {
			text += ".0"
		}
		out = append(out, text)
	}
	slices.SortFunc(cuts, slices.Compare)
	cuts = slices.CompactFunc(cuts, slices.Equal)
	if len(cuts) > 0 && len(cuts[0]) > 0 {
		spell(nil)
	}
	for _, v := range cuts {
		spell(v)
		spell(append(append(slices.Clip(v), make([]int, longest+1)...), 1))
	}
	return out
}

// byAttribute are the conditions of postures on each attribute, in the order in
// which the attributes appear.
func byAttribute(postures ...acl.Posture) (attrs []string, conditions map[string][]acl.Condition) {
	conditions = map[string][]acl.Condition{}
	for _, p := range postures {
		for _, c := range p {
			if conditions[c.Attr] == nil {
				attrs = append(attrs, c.Attr)
			}
			conditions[c.Attr] = append(conditions[c.Attr], c)
		}
	}
	return attrs, conditions
}

// possible reports whether some report meets a posture; none is always met.
func possible(p acl.Posture) bool {
	attrs, conditions := byAttribute(p)
	for _, attr := range attrs {
		list := conditions[attr]
		if !slices.ContainsFunc(telling(list), func(v string) bool { return acl.Posture(list).Met(map[string]string{attr: v}) }) {
			return false
		}
	}
	return true
}

// mostReports is how many reports two conditions are compared on: of five
// attributes with five values each there are about as many. mostConditions is how
// many may tell values of one attribute apart, as each is asked about each.
const (
	mostReports    = 1 << 12
	mostConditions = 128
)

// samples are reports such that whatever a node reports, it meets the same of the
// terms' postures as one of them does; none where that takes too many.
func samples(terms []term) []map[string]string {
	var postures []acl.Posture
	for _, t := range terms {
		postures = append(postures, t.posture)
	}
	attrs, conditions := byAttribute(postures...)
	out := []map[string]string{{}}
	for _, attr := range attrs {
		if len(conditions[attr]) > mostConditions {
			return nil
		}
		values := []string{""} // it is not reported
		seen := map[string]bool{strings.Repeat("-", len(conditions[attr])): true}
		for _, v := range telling(conditions[attr]) {
			met := make([]byte, len(conditions[attr]))
			for i, c := range conditions[attr] {
				met[i] = '-'
				if (acl.Posture{c}).Met(map[string]string{attr: v}) {
					met[i] = '+'
				}
			}
			if !seen[string(met)] {
				seen[string(met)] = true
				values = append(values, v)
			}
		}
		if len(out)*len(values) > mostReports {
			return nil
		}
		var next []map[string]string
		for _, r := range out {
			for _, v := range values {
				with := map[string]string{}
				for k, o := range r {
					with[k] = o
				}
				if v != "" {
					with[attr] = v
				}
				next = append(next, with)
			}
		}
		out = next
	}
	return out
}
