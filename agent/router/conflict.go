package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// surroundings is what of the machine's network could be in our way.
type surroundings struct {
	addresses []linkAddr // of other interfaces
	rules     []string   // not ours, at our priority or to our table; as told to people
	routes    []string   // not ours, in our table
}

// linkAddr is an address of an interface with its subnet.
type linkAddr struct {
	link   string
	prefix netip.Prefix // the address itself with the length of its subnet; not masked
}

// maxExamples bounds how many subjects one warning names.
const maxExamples = 3

// conflicts says in sentences what of the machine's network contradicts the
// state. Peers must be sorted.
func (s State) conflicts(around surroundings) []string {
	var out []string
	if n := len(around.rules); n > 0 {
		out = append(out, fmt.Sprintf("%s not ours at priority %d or to table %d, which is left as it is: %s",
			count(n, "rule"), Priority, Table, examples(around.rules)))
	}
	if n := len(around.routes); n > 0 {
		out = append(out, fmt.Sprintf("%s not ours in table %d, which is left as it is and may lead packets to peers elsewhere: %s",
			count(n, "route"), Table, examples(around.routes)))
	}
	for _, a := range around.addresses {
		addr := a.prefix.Addr()
		if slices.Contains(s.Addresses, addr) {
			out = append(out, fmt.Sprintf("the node's address %s is on interface %s, too: packets to it are dropped there", addr, a.link))
		}
		if _, found := slices.BinarySearchFunc(s.Peers, addr, netip.Addr.Compare); found {
			out = append(out, fmt.Sprintf("the peer address %s is an address of this machine (interface %s): the peer cannot be reached", addr, a.link))
		}
		if inside := within(s.Peers, a.prefix.Masked()); !a.prefix.IsSingleIP() && len(inside) > 0 {
			texts := make([]string, 0, maxExamples+1)
			for _, p := range inside[:min(len(inside), maxExamples+1)] {
				texts = append(texts, p.String())
			}
			out = append(out, fmt.Sprintf("the subnet %s of interface %s covers %s of peers (%s): they are taken for the mesh, and neighbours with these addresses are cut off",
				a.prefix.Masked(), a.link, countAddresses(len(inside)), examples(texts)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// within returns the part of the sorted addresses that a prefix covers.
func within(sorted []netip.Addr, p netip.Prefix) []netip.Addr {
	from, _ := slices.BinarySearchFunc(sorted, p.Addr(), netip.Addr.Compare)
	to := from
	for to < len(sorted) && p.Contains(sorted[to]) {
		to++
	}
	return sorted[from:to]
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func countAddresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

// examples joins a few of the texts.
func examples(texts []string) string {
	if len(texts) > maxExamples {
		return strings.Join(texts[:maxExamples], "; ") + "; …"
	}
	return strings.Join(texts, "; ")
}
