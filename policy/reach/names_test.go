package reach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
)

// An individual is one end as people know it: a node with a name, or whichever
// nodes a user or a set of tags may have.
type individual struct {
	class int
	node  Node
	addrs addrRange
}

func individuals(sp *space) (out []individual) {
	for i := range sp.classes {
		c := &sp.classes[i]
		switch {
		case c.kind == internetEnd:
			out = append(out, individual{class: i, node: c.rep})
			continue
		case c.kind != nodeEnd:
			for _, r := range c.ranges {
				out = append(out, individual{class: i, node: Node{Address: r.first}, addrs: r})
			}
			continue
		case c.many:
			out = append(out, individual{class: i, node: c.rep})
			continue
		}
		whole := c.until[0] != 0 && c.until[len(sp.sides)-1] != 0
		for _, side := range sp.sides {
			whole = whole && slices.Contains(c.until[:], forever) && c.until[slices.IndexFunc(sp.sides, func(s spaceSide) bool { return s == side })] != 0
		}
		for _, id := range c.real {
			for _, side := range sp.sides {
				if side.inv == nil {
					continue
				}
				if j := slices.IndexFunc(side.inv.Nodes, func(a Admitted) bool { return a.Name == sp.real[id] }); j >= 0 {
					a := &side.inv.Nodes[j]
					out = append(out, individual{class: i, node: Node{Name: a.Name, User: a.User, Tags: a.tags(), Real: true}})
					break
				}
			}
		}
		if !whole {
			continue
		}
		if c.named != "" {
			out = append(out, individual{class: i, node: Node{Name: c.named, User: c.rep.User, Tags: c.rep.Tags}})
			continue
		}
		for _, u := range c.users {
			out = append(out, individual{class: i, node: Node{User: sp.users[u]}})
		}
		for _, id := range c.tagSets {
			out = append(out, individual{class: i, node: Node{Tags: sp.tagSets[id]}})
		}
	}
	return out
}

// A reader reads names as people do who know both policies and inventories.
type reader struct {
	sp         *space
	base, head *Compiled
	all        []individual
}

func (r *reader) meant(words []string) map[int]bool {
	out := map[int]bool{}
	for _, w := range words {
		of, except, cut := strings.Cut(w, " except ")
		set := r.both(of)
		if cut {
			for _, x := range strings.Split(except, " or ") {
				for i := range r.both(x) {
					delete(set, i)
				}
			}
		}
		for i := range set {
			out[i] = true
		}
	}
	return out
}

func (r *reader) both(text string) map[int]bool {
	var out map[int]bool
	for i, w := range strings.Split(text, " and ") {
		set := r.word(w)
		if i == 0 {
			out = set
			continue
		}
		for k := range out {
			if !set[k] {
				delete(out, k)
			}
		}
	}
	return out
}

func (r *reader) in(i individual, side int) bool { return r.sp.classes[i.class].until[side] != 0 }

func (r *reader) word(w string) map[int]bool {
	last := len(r.sp.sides) - 1
	first := min(1, last) // the sides of the new inventory
	if last == 1 {
		first = last
	}
	pick := func(keep func(individual) bool) map[int]bool {
		out := map[int]bool{}
		for k, i := range r.all {
			if keep(i) {
				out[k] = true
			}
		}
		return out
	}
	partial := func(i individual) bool {
		for k := range r.sp.sides {
			if !r.in(i, k) {
				return true
			}
		}
		return false
	}
	if of, ok := strings.CutPrefix(w, "new nodes of "); ok {
		s := selector(of)
		return pick(func(i individual) bool { return !r.in(i, 0) && r.in(i, first) && r.selects(r.head, s, i) })
	}
	if of, ok := strings.CutPrefix(w, "former nodes of "); ok {
		s := selector(of)
		return pick(func(i individual) bool { return r.in(i, 0) && !r.in(i, last) && r.selects(r.base, s, i) })
	}
	if of, ok := strings.CutPrefix(w, "other nodes of "); ok {
		return pick(func(i individual) bool {
			return r.sp.classes[i.class].named == "" && !partial(i) && i.node.String() == of || i.node.Real && !partial(i) && r.sp.classes[i.class].named == "" && Node{User: i.node.User, Tags: i.node.Tags}.String() == of
		})
	}
	if strings.Contains(w, " with claim:") && !strings.HasPrefix(w, "any other user") {
		return pick(func(i individual) bool { return r.sp.classes[i.class].claimed == w })
	}
	if w == "any other user" || strings.HasPrefix(w, "any other user with ") {
		return pick(func(i individual) bool { return i.node.String() == w })
	}
	if s, err := acl.ParseSelector(w); err == nil {
		if s.Kind == acl.KindPrefix {
			return pick(func(i individual) bool { return i.addrs.first.IsValid() && s.Prefix().Contains(i.addrs.first) })
		}
		if s.Kind == acl.KindInternet {
			return pick(func(i individual) bool { return i.node.Internet })
		}
		for _, x := range []struct {
			c    *Compiled
			side int
		}{{r.head, last}, {r.base, 0}} {
			if out := pick(func(i individual) bool { return r.in(i, x.side) && r.selects(x.c, s, i) }); len(out) > 0 {
				return out
			}
		}
		return nil
	}
	if strings.Contains(w, "+") { // a set of tags that has no word
		return pick(func(i individual) bool {
			return !partial(i) && len(i.node.Tags) > 1 && r.sp.classes[i.class].named == "" && Node{Tags: i.node.Tags}.String() == w
		})
	}
	return pick(func(i individual) bool { return i.node.Name == w })
}

func (r *reader) selects(c *Compiled, s acl.Selector, i individual) bool {
	switch {
	case i.node.Internet, i.node.Address.IsValid():
		return false
	}
	if r.sp.classes[i.class].claimed != "" { // what the user alone is, is the user's class
		return s.Kind == acl.KindGroup && c.Selects(s, Node{User: stranger, Stranger: true, Claim: i.node.Claim}, noon)
	}
	return c.Selects(s, i.node, noon)
}

// TestNamesMeanTheSet names sets of classes, and reads the names.
func TestNamesMeanTheSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := drawer{t, "base ", false}.policy(nil)
		head := drawer{t, "head ", false}.policy(base)
		was := drawer{t, "was ", false}.inventory()
		is := was
		if rapid.Bool().Draw(t, "other inventory") {
			is = drawer{t, "is ", false}.inventory()
		}
		e, _, names := difference(Side{base, was}, Side{head, is}, noon)
		r := &reader{e.sp, base, head, individuals(e.sp)}
		for range 5 {
			set := newBitset(len(e.sp.classes))
			for i := range e.sp.classes {
				if rapid.IntRange(0, 2).Draw(t, "in") > 0 {
					set.add(i)
				}
			}
			words := names.name(set)
			got := r.meant(words)
			for k, i := range r.all {
				if got[k] != set.has(i.class) {
					t.Fatalf("%q: holds %v (class %d, %+v): %t, want %t", words, i.node, i.class, e.sp.classes[i.class], got[k], set.has(i.class))
				}
			}
		}
	})
}

func TestRangePrefixes(t *testing.T) {
	for _, x := range []struct{ first, last, want string }{
		{"10.0.0.0", "10.0.0.255", "10.0.0.0/24"},
		{"10.0.0.1", "10.0.0.6", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32"},
		{"0.0.0.0", "255.255.255.255", "0.0.0.0/0"},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"},
		{"255.255.255.254", "255.255.255.255", "255.255.255.254/31"},
	} {
		var got []string
		for _, p := range rangePrefixes(addrRange{netip.MustParseAddr(x.first), netip.MustParseAddr(x.last)}) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != x.want {
			t.Errorf("%s to %s: got %q, want %q", x.first, x.last, got, x.want)
		}
	}
}
