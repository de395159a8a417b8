package reach

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// A namer finds few words for sets of nodes.
type namer struct {
	nodes []Node
	words []word // the largest first
}

// A word is a selector and the nodes that it selects.
type word struct {
	text string
	set  []bool
	n    int
}

// newNamer prepares the words that a policy has for nodes at a time.
func newNamer(nodes []Node, at time.Time, policies ...*Compiled) *namer {
	n := &namer{nodes: nodes}
	seen := map[string]bool{}
	for _, c := range policies {
		groups := map[string]bool{}
		var sels []acl.Selector
		for p, ms := range c.Principals {
			sels = append(sels, p)
			for _, m := range ms {
				if !groups[m.Group] {
					groups[m.Group] = true
					sels = append(sels, acl.Selector{Kind: acl.KindGroup, Name: m.Group})
				}
			}
		}
		for _, node := range nodes {
			for _, t := range node.Tags {
				sels = append(sels, acl.Selector{Kind: acl.KindTag, Name: t})
			}
			if node.User != "" && !node.Stranger {
				sels = append(sels, acl.Selector{Kind: acl.KindUser, Name: node.User})
			}
		}
		subjects := make([]*acl.Subject, len(nodes))
		for i, node := range nodes {
			subjects[i] = c.Subject(node)
		}
		sels = append(sels, acl.Selector{Kind: acl.KindMember}, acl.Selector{Kind: acl.KindTagged}, acl.Selector{Kind: acl.KindAny})
		for _, s := range sels {
			text := s.String()
			if seen[text] {
				continue
			}
			w := word{text: text, set: make([]bool, len(nodes))}
			for i, subject := range subjects {
				if s.Selects(subject, subject, at) {
					w.set[i] = true
					w.n++
				}
			}
			if w.n > 0 {
				seen[text] = true
				n.words = append(n.words, w)
			}
		}
	}
	slices.SortStableFunc(n.words, func(a, b word) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(rank(a.text), rank(b.text)), cmp.Compare(a.text, b.text))
	})
	return n
}

// rank prefers, of words for the same nodes, a user to a tag to a group.
func rank(text string) int {
	switch s, _ := acl.ParseSelector(text); s.Kind {
	case acl.KindUser:
		return 0
	case acl.KindTag:
		return 1
	case acl.KindGroup:
		return 2
	}
	return 3
}

// name describes exactly the nodes of the set: greedily the largest words that
// hold no others, then "WORD except …" where it is shorter, then single nodes.
func (n *namer) name(set []bool) []string {
	left := slices.Clone(set)
	var out []string
	for _, w := range n.words {
		if !covers(left, w.set) || !subset(w.set, set) {
			continue
		}
		out = append(out, w.text)
		for i := range left {
			left[i] = left[i] && !w.set[i]
		}
	}
	for i, is := range left {
		if is {
			out = append(out, n.single(i))
		}
	}
	if len(out) > 2 {
		if except, ok := n.except(set); ok {
			return []string{except}
		}
	}
	return out
}

// single describes one node. The imagined node of a user or tag, where others of
// the same user or tag are not meant, is whichever node the policy does not name.
func (n *namer) single(i int) string {
	text := n.nodes[i].String()
	if slices.ContainsFunc(n.words, func(w word) bool { return w.text == text && w.n > 1 }) {
		return "other nodes of " + text
	}
	return text
}

// except looks for a word that is the set and at most two words more.
func (n *namer) except(set []bool) (string, bool) {
	for _, w := range slices.Backward(n.words) {
		if !subset(set, w.set) {
			continue
		}
		rest := make([]bool, len(set))
		count := 0
		for i := range set {
			if rest[i] = w.set[i] && !set[i]; rest[i] {
				count++
			}
		}
		if count == 0 {
			return w.text, true
		}
		for _, x := range n.words {
			if slices.Equal(x.set, rest) {
				return fmt.Sprintf("%s except %s", w.text, x.text), true
			}
		}
	}
	return "", false
}

// covers reports whether w has a node that is still left.
func covers(left, w []bool) bool {
	for i := range left {
		if left[i] && w[i] {
			return true
		}
	}
	return false
}

// subset reports whether a's nodes are all b's.
func subset(a, b []bool) bool {
	for i := range a {
		if a[i] && !b[i] {
			return false
		}
	}
	return true
}
