// Package validate compares leaves with the policy that they were compiled from,
// at every build: a difference fails it.
//
// It is a second compiler that believes neither the first, of which it imports
// nothing, nor the engine that tests ask. What a policy means is found out by
// another way: memberships by propagating them until nothing changes, services and
// hosts from where they are written, exceptions of addresses by cutting ranges.
// Leaves are decompiled from what was read back of them. Both sides come into one
// form, in which what means the same is the same, however grants are grouped:
//
//	cell   leaf, rule, what of the destination, ports and conditions → sources
//	text   what any other leaf says, its lists sorted
//
// The form is not the engine's rows, which would say the same with more work: it
// has one line for each rule at each destination, and costs a twentieth of a
// build. What two rules give together is not looked at, so that leaves which give
// the same by other rules do differ.
package validate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// Leaves compares leaves, and what was read back from them, with the policy they
// were made of. The error names the first cell that differs: a rule at a
// destination, a principal, or a leaf.
func Leaves(p *model.Policy, leaves []leaf.Leaf, c *reach.Compiled) error {
	want, err := meaning(p)
	if err != nil {
		return fmt.Errorf("validate leaves: the policy: %w", err)
	}
	got, err := decompile(leaves, c)
	if err != nil {
		return fmt.Errorf("validate leaves: %w", err)
	}
	if where, what := want.differs(got); where != "" {
		return fmt.Errorf("validate leaves: %s: %s", where, what)
	}
	return nil
}

// A relation is what a policy or its leaves mean: texts by what they are about.
type relation struct {
	cells map[cell][]string // sources, sorted
	texts map[string]string // of principals, and of leaves about other things than access
}

// A cell is the access that one rule gives at one destination.
type cell struct {
	leaf string // that the grant stands in
	rule string
	to   string // what of the leaf's destination is meant: ranges, or exceptions
	when string // ports and conditions
}

func (c cell) compare(o cell) int {
	return cmp.Or(strings.Compare(c.leaf, o.leaf), strings.Compare(c.rule, o.rule), strings.Compare(c.to, o.to), strings.Compare(c.when, o.when))
}

func newRelation() *relation {
	return &relation{cells: map[cell][]string{}, texts: map[string]string{}}
}

// tidy sorts the sources of every cell, each once.
func (r *relation) tidy() {
	for c, from := range r.cells {
		slices.Sort(from)
		r.cells[c] = slices.Compact(from)
	}
}

// differs names the first difference of what is meant and what is there.
func (r *relation) differs(got *relation) (where, what string) {
	for _, name := range slices.Sorted(maps.Keys(r.texts)) {
		if have, ok := got.texts[name]; !ok {
			return name, "is missing"
		} else if have != r.texts[name] {
			return name, fmt.Sprintf("says %s, the policy means %s", have, r.texts[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got.texts)) {
		if _, ok := r.texts[name]; !ok {
			return name, "means nothing in the policy"
		}
	}
	var wrong []cell
	for c, from := range r.cells {
		if !slices.Equal(from, got.cells[c]) {
			wrong = append(wrong, c)
		}
	}
	for c := range got.cells {
		if _, ok := r.cells[c]; !ok {
			wrong = append(wrong, c)
		}
	}
	if len(wrong) == 0 {
		return "", ""
	}
	c := slices.MinFunc(wrong, cell.compare)
	where = fmt.Sprintf("%s, rule %q", c.leaf, c.rule)
	have, is := got.cells[c]
	means, isMeant := r.cells[c]
	switch about := strings.TrimSpace(c.to + " " + c.when); {
	case !is:
		return where, fmt.Sprintf("the leaf does not give %s from %s", about, strings.Join(means, "; "))
	case !isMeant:
		return where, fmt.Sprintf("the leaf gives %s from %s, the policy does not", about, strings.Join(have, "; "))
	default:
		return where, fmt.Sprintf("%s is from %s, the policy means %s", about, strings.Join(have, "; "), strings.Join(means, "; "))
	}
}

// conditions that a grant holds under, as one text.
func whenText(allow []acl.Ports, until time.Time, hours acl.Hours, posture acl.Postures, capabilities map[string]json.RawMessage) (string, error) {
	var b strings.Builder
	b.WriteString(portRanges(allow))
	if !until.IsZero() {
		b.WriteString(" until " + until.UTC().Format(time.RFC3339Nano))
	}
	var windows, postures []string
	for _, w := range hours {
		windows = append(windows, w.String())
	}
	for _, p := range posture {
		var all []string
		for _, c := range p {
			values := slices.Clone(c.Values)
			slices.Sort(values)
			all = append(all, fmt.Sprintf("%s %s %q", c.Attr, c.Op, slices.Compact(values)))
		}
		postures = append(postures, set(all, " and "))
	}
	if len(windows) > 0 {
		b.WriteString(" at " + set(windows, " or "))
	}
	if len(postures) > 0 {
		b.WriteString(" where " + set(postures, " or "))
	}
	for _, name := range slices.Sorted(maps.Keys(capabilities)) {
		d := json.NewDecoder(strings.NewReader(string(capabilities[name])))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return "", fmt.Errorf("capability %q: %w", name, err)
		}
		fmt.Fprintf(&b, " with %s = %#v", name, v) // maps are printed in the order of their keys
	}
	return b.String(), nil
}

// set is a list as a set: sorted, each once.
func set(list []string, join string) string {
	slices.Sort(list)
	return strings.Join(slices.Compact(list), join)
}

// portRanges are ports as one text, in which ranges that touch are one.
func portRanges(list []acl.Ports) string {
	type span struct{ first, last int }
	spans := map[acl.Proto][]span{}
	echo := false
	for _, p := range list {
		switch p.Range {
		case acl.RangeAll:
			return "everything"
		case acl.RangeEcho:
			echo = true
		case acl.RangePorts:
			spans[p.Proto] = append(spans[p.Proto], span{int(p.First), int(p.Last)})
		case acl.RangeProto:
			spans[p.Proto] = append(spans[p.Proto], span{0, 1 << 16})
		}
	}
	var out []string
	for _, proto := range slices.Sorted(maps.Keys(spans)) {
		s := spans[proto]
		slices.SortFunc(s, func(a, b span) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
		now := s[0]
		for _, next := range s[1:] {
			if next.first <= now.last+1 {
				now.last = max(now.last, next.last)
				continue
			}
			out = append(out, fmt.Sprintf("%s/%d-%d", proto, now.first, now.last))
			now = next
		}
		out = append(out, fmt.Sprintf("%s/%d-%d", proto, now.first, now.last))
	}
	if echo {
		out = append(out, "echo")
	}
	if len(out) == 0 {
		return "no port"
	}
	return strings.Join(out, ",")
}

// A span is a range of addresses of one family, both ends included.
type addressSpan struct{ first, last netip.Addr }

func spanOf(p netip.Prefix) addressSpan {
	last := p.Addr().AsSlice()
	for i := range last {
		for bit := range 8 {
			if i*8+bit >= p.Bits() {
				last[i] |= 0x80 >> bit
			}
		}
	}
	a, _ := netip.AddrFromSlice(last)
	return addressSpan{p.Addr(), a}
}

// cut are the spans of a without the addresses of all that are excepted.
func (a addressSpan) cut(except []addressSpan) (left []addressSpan) {
	except = slices.DeleteFunc(slices.Clone(except), func(x addressSpan) bool {
		return x.first.Is4() != a.first.Is4() || x.last.Less(a.first) || a.last.Less(x.first)
	})
	slices.SortFunc(except, func(x, y addressSpan) int { return x.first.Compare(y.first) })
	from := a.first
	for _, x := range except {
		if from.Less(x.first) {
			left = append(left, addressSpan{from, x.first.Prev()})
		}
		if !x.last.Less(from) {
			if from = x.last.Next(); !from.IsValid() || a.last.Less(from) {
				return left
			}
		}
	}
	return append(left, addressSpan{from, a.last})
}

// both is what two spans share.
func (a addressSpan) both(b addressSpan) (addressSpan, bool) {
	if a.first.Is4() != b.first.Is4() || a.last.Less(b.first) || b.last.Less(a.first) {
		return addressSpan{}, false
	}
	if a.first.Less(b.first) {
		a.first = b.first
	}
	if b.last.Less(a.last) {
		a.last = b.last
	}
	return a, true
}

func spanText(spans []addressSpan) string {
	var out []string
	for _, s := range spans {
		out = append(out, s.first.String()+"-"+s.last.String())
	}
	return strings.Join(out, ",")
}
