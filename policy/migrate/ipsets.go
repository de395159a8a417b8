package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/policy/prefix"
)

// An ipset is a named set of addresses: entries that add and remove, in order.
type ipset struct {
	value    *value
	prefixes []netip.Prefix
	hosts    []string // the hosts here that it becomes
	state    int      // of resolving it: 0, then open, then done
	bad      bool     // an entry is invalid, or lost
}

const (
	open = 1 + iota
	done
)

// maxParts bounds the prefixes that one set becomes.
const maxParts = 1024

func (t *tailscale) readIPSets() {
	members := t.object(t.root.field("ipsets"), "ipsets")
	for _, m := range members {
		if name, ok := strings.CutPrefix(m.name, "ipset:"); !ok || name == "" {
			t.bad(m.place, `write "ipset:NAME"`, "ipsets: %q is not an ipset", m.name)
			continue
		}
		t.ipsets[m.name] = &ipset{value: m.value}
	}
	for _, m := range members {
		s := t.ipsets[m.name]
		if s == nil || s.value != m.value || !t.resolve(m.name) {
			continue
		}
		t.hostsOf(s, strings.TrimPrefix(m.name, "ipset:"))
	}
}

// hostsOf gives a set's prefixes names as hosts: the set's own where it is one.
func (t *tailscale) hostsOf(s *ipset, name string) {
	comments := s.value.all()
	for i, p := range s.prefixes {
		h := host{prefix: p}
		if i == 0 {
			h.comments = comments
		}
		if len(s.prefixes) == 1 {
			h.name = t.hostNames.unique(slugged(name))
		} else {
			if i == 0 {
				h.comments = append(slices.Clone(comments), fmt.Sprintf("The addresses of ipset %s.", clean(name)))
			}
			h.name = t.hostNames.unique(fmt.Sprintf("%s/%d", slugged(name), i+1))
		}
		s.hosts = append(s.hosts, h.name)
		t.draft.hosts = append(t.draft.hosts, h)
	}
}

// slugged is a name that is allowed here, itself where it is.
func slugged(name string) string {
	n := newNames("host")
	return n.name(name)
}

// resolve works out a set's prefixes; false where it is invalid.
func (t *tailscale) resolve(name string) bool {
	s := t.ipsets[name]
	if s.state == done {
		return !s.bad
	}
	s.state = open
	for _, e := range t.texts(s.value, name) {
		add, part, valid := t.entry(name, e)
		switch {
		case !valid:
			s.bad = true
		case add:
			s.prefixes = prefix.Union(s.prefixes, part)
		default:
			s.prefixes = prefix.Subtract(s.prefixes, part)
		}
		if len(s.prefixes) > maxParts {
			t.bad(e.place, "", "%s: more than %d prefixes", name, maxParts)
			s.bad = true
			break
		}
	}
	s.state = done
	return !s.bad
}

// entry reads one entry of a set.
func (t *tailscale) entry(name string, e *value) (add bool, part []netip.Prefix, ok bool) {
	verb, rest, found := strings.Cut(e.str, " ")
	target := strings.TrimSpace(rest)
	if !found {
		verb, target = "add", e.str
	}
	if verb != "add" && verb != "remove" {
		t.bad(e.place, `write "add TARGET" or "remove TARGET"`, "%s: %q", name, e.str)
		return false, nil, false
	}
	bare := strings.TrimPrefix(target, "host:")
	switch {
	case strings.HasPrefix(target, "ipset:"):
		inner := t.ipsets[target]
		switch {
		case inner == nil:
			t.bad(e.place, "", "%s: ipset not found: %q%s", name, target, didYouMean(target, keys(t.ipsets)))
			return false, nil, false
		case inner.state == open:
			t.bad(e.place, "", "%s: %s is made of itself", name, target)
			return false, nil, false
		case !t.resolve(target):
			return false, nil, false
		}
		return verb == "add", inner.prefixes, true
	case t.hosts[bare].IsValid():
		return verb == "add", []netip.Prefix{t.hosts[bare]}, true
	case strings.HasPrefix(target, "autogroup:"):
		t.unfitting(fileHosts, e.place, "name it in the rules", "%s: %q in an ipset", name, target)
		return false, nil, false
	}
	list, err := addresses(target)
	if err != nil {
		t.bad(e.place, "", "%s: %q is neither an address, a prefix, a range, a host nor an ipset", name, target)
		return false, nil, false
	}
	return verb == "add", list, true
}

// addresses reads an address, a prefix or a range, "10.0.0.1-10.0.0.9".
func addresses(s string) ([]netip.Prefix, error) {
	if first, last, ok := strings.Cut(s, "-"); ok {
		a, errA := netip.ParseAddr(strings.TrimSpace(first))
		b, errB := netip.ParseAddr(strings.TrimSpace(last))
		list := prefix.Range(a, b)
		if errA != nil || errB != nil || a.Zone()+b.Zone() != "" || len(list) == 0 {
			return nil, fmt.Errorf("%q is not a range of addresses", s)
		}
		return list, nil
	}
	p, err := address(s)
	return []netip.Prefix{p}, err
}
