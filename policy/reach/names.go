package reach

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// A namer finds few words for sets of classes. What it says means exactly the set,
// read with the memberships of the new policy, or of the old where the new has
// nothing of the name:
//
//	group:eng                   a selector
//	group:eng except X or Y     what the selector selects, but for X and Y
//	group:eng and group:ops     what both select
//	other nodes of X            those nodes of a user or tag that are not in another
//	                            class: not those that rules name
//	new nodes of X              those that the new inventory has and the old has not
//	former nodes of X           those that the old inventory has and the new has not
type namer struct {
	sp      *space
	words   []word    // the largest first
	byClass [][]int32 // words of each class, the largest first
	hosts   map[netip.Prefix]string
	tagged  map[string]int // in how many classes a tag is
	pool    *pool
	memo    map[int32][]string
	owners  map[int32][]string
	nodes   map[int32][]string
}

// A word is a selector and the classes that it selects.
type word struct {
	text string
	rank int
	set  bitset
	n    int // classes
}

// newNamer prepares the words of one sheet, or of the new side's and the old's.
func newNamer(e *engine, sheets ...*sheet) *namer {
	n := &namer{
		sp: e.sp, pool: e.sets, hosts: map[netip.Prefix]string{}, tagged: map[string]int{},
		memo: map[int32][]string{}, owners: map[int32][]string{}, nodes: map[int32][]string{},
	}
	for _, s := range sheets {
		for name, p := range s.c.Hosts {
			if old, ok := n.hosts[p]; !ok || name < old {
				n.hosts[p] = name
			}
		}
	}
	seen := map[string]bool{}
	add := func(text string, rank int, set bitset) {
		if len(e.sp.sides) == 1 { // questions are not about them
			e.sp.withoutClaimed(set)
		}
		if c := set.count(); c > 0 && !seen[text] {
			seen[text] = true
			n.words = append(n.words, word{text, rank, set, c})
		}
	}
	first, last := sheets[len(sheets)-1].side, sheets[0].side
	fresh, gone := newBitset(len(e.sp.classes)), newBitset(len(e.sp.classes))
	for i := range e.sp.classes {
		switch c := &e.sp.classes[i]; {
		case c.until[first] == 0:
			fresh.add(i)
		case c.until[last] == 0:
			gone.add(i)
		}
	}
	within := map[acl.Selector][]int{}
	for i := range e.sp.classes {
		for _, sel := range e.sp.classes[i].within {
			within[sel] = append(within[sel], i)
		}
	}
	for _, s := range sheets {
		for sel, members := range s.members {
			set := newBitset(len(e.sp.classes))
			for _, m := range members {
				if m.until > s.at {
					set.add(int(m.class))
				}
			}
			for _, i := range within[sel] { // a prefix means addresses, wherever they are reached
				set.add(i)
			}
			text, r := n.selector(sel), rank(sel)
			for _, part := range []struct {
				mask  bitset
				text  string
				s     *sheet
				nodes bool
			}{{fresh, "new nodes of ", sheets[0], true}, {gone, "former nodes of ", sheets[len(sheets)-1], true}} {
				if s == part.s && set.meets(part.mask) && sel.Kind != acl.KindPrefix && sel.Kind != acl.KindInternet {
					some := set.clone()
					some.and(part.mask)
					add(part.text+text, r+4, some)
				}
			}
			add(text, r, set)
		}
		for group, set := range n.unused(s) {
			if text := "group:" + group; set == nil {
				seen[text] = true // what it means is not whole classes; the older policy may not use the word
			} else {
				add(text, rank(acl.Selector{Kind: acl.KindGroup}), set)
			}
		}
	}
	slices.SortFunc(n.words, func(a, b word) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.rank, b.rank), strings.Compare(a.text, b.text))
	})
	n.byClass = make([][]int32, len(e.sp.classes))
	for i := range n.words {
		for c := range n.words[i].set.each {
			n.byClass[c] = append(n.byClass[c], int32(i))
		}
	}
	for i := range e.sp.classes {
		tags := map[string]bool{}
		for _, id := range e.sp.classes[i].tagSets {
			for _, t := range e.sp.tagSets[id] {
				tags[t] = true
			}
		}
		for t := range tags {
			n.tagged[t]++
		}
	}
	return n
}

// unused are the groups that no rule names. Most are whole classes all the same, as
// groups in groups are; nil are those that are not.
func (n *namer) unused(s *sheet) map[string]bitset {
	sets, broken := map[string]bitset{}, map[string]bool{}
	for i := range n.sp.classes {
		c := &n.sp.classes[i]
		if c.kind != nodeEnd || c.until[s.side] == 0 {
			continue
		}
		count, total := map[string]int{}, 0
		member := func(principals ...acl.Selector) {
			total++
			in := map[string]bool{}
			for _, p := range principals {
				for _, m := range s.c.Principals[p] {
					if unix(m.Until) > s.at {
						in[m.Group] = true
					}
				}
			}
			for g := range in {
				count[g]++
			}
		}
		for _, u := range c.users {
			member(acl.Selector{Kind: acl.KindUser, Name: n.sp.users[u]})
		}
		for _, id := range c.tagSets {
			var tags []acl.Selector
			for _, t := range n.sp.tagSets[id] {
				tags = append(tags, acl.Selector{Kind: acl.KindTag, Name: t})
			}
			member(tags...)
		}
		if c.rep.Claim != "" {
			member(acl.Selector{Kind: acl.KindClaim, Name: c.rep.Claim})
		}
		for g, in := range count {
			switch {
			case in < total:
				broken[g] = true
			case sets[g] == nil:
				sets[g] = newBitset(len(n.sp.classes))
				fallthrough
			default:
				sets[g].add(i)
			}
		}
	}
	for g := range broken {
		sets[g] = nil
	}
	for g := range sets {
		if n.sp.used[acl.Selector{Kind: acl.KindGroup, Name: g}] {
			delete(sets, g)
		}
	}
	return sets
}

func (n *namer) selector(s acl.Selector) string {
	switch s.Kind {
	case acl.KindNode:
		return s.Name
	case acl.KindPrefix:
		if name, ok := n.hosts[s.Prefix()]; ok {
			return "host:" + name
		}
	}
	return s.String()
}

// rank prefers, of words for the same classes, what says most.
func rank(s acl.Selector) int {
	switch s.Kind {
	case acl.KindUser, acl.KindNode:
		return 0
	case acl.KindTag, acl.KindPrefix:
		return 1
	case acl.KindGroup:
		return 2
	}
	return 3
}

// name describes the classes of a set.
func (n *namer) name(set bitset) []string {
	id := n.pool.put(set)
	if known, ok := n.memo[id]; ok {
		return known
	}
	out, left := n.cover(set)
	out = append(out, n.rest(set, left)...)
	if len(out) > 2 {
		if except, ok := n.except(set, len(out)); ok {
			out = []string{except}
		}
	}
	n.memo[id] = out
	return out
}

// cover takes greedily the largest words that hold nothing else.
func (n *namer) cover(set bitset) (out []string, left bitset) {
	left = set.clone()
	take := func(w *word) {
		if w.set.meets(left) && w.set.subsetOf(set) {
			out = append(out, n.plain(w))
			left.without(w.set)
		}
	}
	const few = 32 // classes of which the words are fewer than all words
	if set.count() > few {
		for i := range n.words {
			take(&n.words[i])
		}
		return out, left
	}
	var words []int32
	for c := range set.each {
		words = append(words, n.byClass[c]...)
	}
	slices.Sort(words)
	for _, i := range slices.Compact(words) {
		take(&n.words[i])
	}
	return out, left
}

// plain is a word, or the one user whom it means.
func (n *namer) plain(w *word) string {
	if w.n > 1 {
		return w.text
	}
	c := &n.sp.classes[w.set.first()]
	if c.kind == nodeEnd && len(c.users) == 1 && !c.many && c.named == "" && c.family == 0 && !n.partial(c) && len(n.sp.owned[c.users[0]]) == 1 {
		return n.sp.users[c.users[0]]
	}
	return w.text
}

// rest describes what no word covers: words with exceptions where that is shorter
// than one by one.
func (n *namer) rest(set, left bitset) (out []string) {
	for c := left.first(); c >= 0; c = left.first() {
		single := n.single(c)
		best, saved := "", 0
		var taken bitset
		for _, i := range n.byClass[c] {
			w := &n.words[i]
			cost := 0
			for x := range w.set.each {
				if left.has(x) {
					cost += n.cost(x)
				}
			}
			if cost <= saved+2 {
				continue
			}
			not := w.set.clone()
			not.without(set)
			excepted, ok := n.few(not, min(4, cost-saved-2))
			if save := cost - 1 - len(excepted); ok && save > saved {
				best, saved, taken = n.plain(w)+" except "+strings.Join(excepted, " or "), save, w.set
			}
		}
		if text, both, ok := n.both(c, set); ok && best == "" && len(single) > 3 {
			best, taken = text, both
		}
		if best != "" {
			out = append(out, best)
			left.without(taken)
			continue
		}
		out = append(out, single...)
		left[c/64] &^= 1 << (c % 64)
	}
	return out
}

// few describes a small set in at most so many words.
func (n *namer) few(set bitset, limit int) ([]string, bool) {
	words, left := n.cover(set)
	for c := range left.each {
		if len(words) > limit {
			break
		}
		words = append(words, n.single(c)...)
	}
	return words, len(words) <= limit
}

// except looks for a word that is the set and little more.
func (n *namer) except(set bitset, than int) (string, bool) {
	c := set.first()
	if c < 0 {
		return "", false
	}
	best, length := "", min(than, 5)
	for _, i := range slices.Backward(n.byClass[c]) {
		w := &n.words[i]
		if !set.subsetOf(w.set) {
			continue
		}
		not := w.set.clone()
		not.without(set)
		if excepted, ok := n.few(not, length-2); ok {
			best, length = n.plain(w)+" except "+strings.Join(excepted, " or "), len(excepted)+1
		}
	}
	return best, best != ""
}

// both looks for two or three words that have the class in common, and nothing
// that is not in the set.
func (n *namer) both(c int, set bitset) (text string, common bitset, ok bool) {
	var words []string
	for _, i := range slices.Backward(n.byClass[c]) {
		w := &n.words[i]
		if common == nil {
			common, words = w.set.clone(), []string{w.text}
			continue
		}
		next := common.clone()
		next.and(w.set)
		if slices.Equal(next, common) {
			continue
		}
		common, words = next, append(words, w.text)
		if common.subsetOf(set) {
			return strings.Join(words, " and "), common, true
		}
		if len(words) == 3 {
			break
		}
	}
	return "", nil, false
}

// cost is how many words a class is, one by one.
func (n *namer) cost(c int) int {
	cl := &n.sp.classes[c]
	switch {
	case cl.kind != nodeEnd, cl.named != "", cl.many:
		return 1
	case n.partial(cl):
		return len(cl.real)
	case cl.user:
		return len(cl.users)
	}
	return len(cl.tagSets)
}

// partial reports whether a class is nodes that only some inventories have.
func (n *namer) partial(c *class) bool {
	for i := range n.sp.sides {
		if c.until[i] == 0 {
			return true
		}
	}
	return false
}

// single describes one class. The nodes of a user or tag, where others of the same
// are told apart, are whichever nodes are not.
func (n *namer) single(c int) (out []string) {
	cl := &n.sp.classes[c]
	switch {
	case cl.kind == internetEnd:
		return []string{"autogroup:internet"}
	case cl.kind != nodeEnd:
		for _, r := range cl.ranges {
			for _, p := range rangePrefixes(r) {
				out = append(out, n.selector(acl.PrefixSelector(p)))
			}
		}
		return out
	case cl.claimed != "":
		return []string{cl.claimed}
	case cl.many:
		return []string{cl.rep.String()}
	case cl.named != "" && cl.family != 0:
		return []string{cl.named + " at " + cl.addr.String()}
	case cl.named != "":
		return []string{cl.named}
	case n.partial(cl), cl.family != 0:
		for _, id := range cl.real {
			name := n.sp.real[id]
			if cl.family != 0 {
				name += " at its IPv" + string('0'+rune(cl.family)) + " address"
			}
			out = append(out, name)
		}
		return out
	case cl.user:
		for _, u := range cl.users {
			if len(n.sp.owned[u]) > 1 {
				out = append(out, "other nodes of "+n.sp.users[u])
			} else {
				out = append(out, n.sp.users[u])
			}
		}
		return out
	}
	for _, id := range cl.tagSets {
		tags := n.sp.tagSets[id]
		text := tagText(tags)
		if len(tags) == 1 && n.tagged[tags[0]] > 1 {
			text = "other nodes of " + text
		} else if len(tags) > 1 {
			text = strings.ReplaceAll(text, ", ", "+")
		}
		out = append(out, text)
	}
	return out
}

// rangePrefixes are the prefixes that make up a range.
func rangePrefixes(r addrRange) (out []netip.Prefix) {
	for a := r.first; a.IsValid() && a.Compare(r.last) <= 0; {
		bits := a.BitLen()
		for bits > 0 {
			p := netip.PrefixFrom(a, bits-1)
			if p.Masked().Addr() != a || lastAddr(p).Compare(r.last) > 0 {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		out = append(out, p)
		a = lastAddr(p).Next()
		if a.IsValid() && a.BitLen() != r.last.BitLen() {
			break
		}
	}
	return out
}

// real are the nodes of the inventories in the classes, by name.
func (n *namer) real(set bitset) []string {
	return n.listed(set, n.nodes, n.sp.real, func(c int) []int32 { return n.sp.classes[c].real })
}

// people are the users of the classes, each once, by name.
func (n *namer) people(set bitset) []string {
	return n.listed(set, n.owners, n.sp.users, func(c int) []int32 { return n.sp.classes[c].users })
}

// listed are the names of the numbers that the classes have, each once: numbers are
// in the order of names. Known keeps what was listed before.
func (n *namer) listed(set bitset, known map[int32][]string, names []string, of func(class int) []int32) []string {
	id := n.pool.put(set)
	if out, ok := known[id]; ok {
		return out
	}
	var ids []int32
	for c := range set.each {
		ids = append(ids, of(c)...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = names[id]
	}
	known[id] = out
	return out
}
