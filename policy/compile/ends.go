package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// ula6 is where the IPv6 addresses of nodes are (RFC 4193 section 3.1). Which
// part of it is this network's, the policy does not say: it follows from the root
// document.
var ula6 = netip.MustParsePrefix("fd00::/8")

// Ends puts in place what a policy's words for addresses mean.
type Ends struct {
	hosts   map[string]netip.Prefix
	pinned  map[netip.Addr]string // the node that has the address
	own     netip.Prefix
	literal bool
}

// NewEnds reads the hosts and pins of a policy.
func NewEnds(p *model.Policy) *Ends {
	e := &Ends{hosts: map[string]netip.Prefix{}, pinned: map[netip.Addr]string{}, own: p.Network.Prefix4, literal: p.Network.LiteralAddresses}
	for _, h := range p.Hosts {
		e.hosts[h.Name] = h.Prefix
	}
	for _, n := range p.Nodes {
		if n.Address4.IsValid() {
			e.pinned[n.Address4] = n.Name
		}
	}
	return e
}

// Selector is what the selector means: the prefix of a host, the node that is
// pinned to an address, and otherwise the selector itself.
func (e *Ends) Selector(s acl.Selector) (acl.Selector, error) {
	text := s.String()
	if s.Kind == acl.KindHost {
		p, ok := e.hosts[s.Name]
		if !ok {
			return s, fmt.Errorf("unknown %s", text)
		}
		s = acl.PrefixSelector(p)
	}
	if s.Kind != acl.KindPrefix {
		return s, nil
	}
	p := s.Prefix()
	if name, ok := e.pinned[p.Addr()]; ok && p.IsSingleIP() {
		return acl.Selector{Kind: acl.KindNode, Name: name}, nil
	}
	if within(p, e.own) && !e.literal {
		return s, fmt.Errorf("%s is inside the network's own prefix %s, and no node is pinned to it", text, e.own)
	}
	return s, nil
}

// Refs are what refs mean, as questions about ends ask: an address that is not a
// pinned node's is not a node's, unless the policy has literal addresses.
func (e *Ends) Refs(refs []model.Ref) ([]model.Ref, error) {
	out := slices.Clone(refs)
	for i := range out {
		r := &out[i]
		var err error
		if r.Selector, err = e.Selector(r.Selector); err != nil {
			return nil, err
		}
		except := make([]acl.Selector, len(r.Except))
		places := map[acl.Selector]model.Place{}
		for j, x := range r.Except {
			if except[j], err = e.Selector(x.Selector); err != nil {
				return nil, err
			}
			places[except[j]] = x.Place
		}
		r.Except = nil
		for _, s := range e.matter(r.Selector, except) {
			r.Except = append(r.Except, model.Exception{Selector: s, Place: places[s]})
		}
	}
	return out, nil
}

// matter are the exceptions that matter to what a selector selects, sorted, and
// "*" where it would select nodes by their addresses and does not mean to.
func (e *Ends) matter(s acl.Selector, except []acl.Selector) (out []acl.Selector) {
	address := s.Kind == acl.KindPrefix
	for _, x := range except {
		if e.literal || (x.Kind == acl.KindPrefix) == address {
			out = append(out, x)
		}
	}
	if address && !e.literal && e.mayBeNode(s.Prefix()) {
		out = append(out, acl.Selector{Kind: acl.KindAny})
	}
	slices.SortFunc(out, compareSelectors)
	return slices.Compact(out)
}

// mayBeNode reports whether an address in the prefix may be a node's own.
func (e *Ends) mayBeNode(p netip.Prefix) bool {
	return e.own.IsValid() && p.Overlaps(e.own) || p.Overlaps(ula6)
}

// A side is what one end of a rule selects: any of these, less their exceptions.
type side struct {
	selectors []acl.Selector // sorted, each once
	except    []acl.Selector // sorted, each once
}

// sides groups refs by their exceptions, in the order of these.
func (e *Ends) sides(refs []model.Ref) ([]side, error) {
	refs, err := e.Refs(refs)
	if err != nil {
		return nil, err
	}
	byExcept := map[string]*side{}
	var order []string
	for _, r := range refs {
		except := make([]acl.Selector, len(r.Except))
		for i, x := range r.Except {
			except[i] = x.Selector
		}
		key := texts(except)
		if byExcept[key] == nil {
			byExcept[key] = &side{except: except}
			order = append(order, key)
		}
		byExcept[key].selectors = append(byExcept[key].selectors, r.Selector)
	}
	slices.Sort(order)
	var out []side
	for _, key := range order {
		s := byExcept[key]
		slices.SortFunc(s.selectors, compareSelectors)
		s.selectors = slices.Compact(s.selectors)
		if len(s.except) == 0 {
			s.except = nil
		}
		out = append(out, *s)
	}
	return out, nil
}

// texts are selectors as one text; no selector has a newline in it.
func texts(sels []acl.Selector) string {
	var b strings.Builder
	for _, s := range sels {
		b.WriteString(s.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// within reports whether all of p is in the other.
func within(p, in netip.Prefix) bool {
	return p.IsValid() && in.IsValid() && in.Bits() <= p.Bits() && in.Contains(p.Addr())
}
