package migrate

import (
	"net/netip"
	"strings"

	"github.com/writmesh/writ/policy/prefix"
)

// A side says where a name stands, which decides what it may be.
type side int

const (
	source side = iota
	destination
)

// end is what a name selects, as selectors here. It is false where that was told
// to be invalid, or cannot be said; lost is true for the latter.
func (t *tailscale) end(v *value, text string, where side, what string) (out []string, lost, ok bool) {
	text = strings.TrimSpace(text)
	before := len(t.unfit)
	name := func(s string) ([]string, bool, bool) {
		one := *v
		one.str = s
		got, ok := t.name(&one, fileRules, what)
		return []string{got}, len(t.unfit) > before, ok
	}
	bare := strings.TrimPrefix(text, "host:")
	switch {
	case text == "":
		t.bad(v.place, "", "%s: an empty name", what)
	case text == "*" && where == source, text == "autogroup:danger-all" && where == source:
		return everySource, false, true
	case text == "*":
		return everyDestination, false, true
	case strings.HasPrefix(text, "autogroup:"):
		return t.autogroup(v, text, where, what)
	case strings.HasPrefix(text, "group:"), strings.HasPrefix(text, "tag:"):
		return name(text)
	case strings.HasPrefix(text, "ipset:"):
		s := t.ipsets[text]
		if s == nil {
			t.bad(v.place, "", "%s: ipset not found: %q%s", what, text, didYouMean(text, keys(t.ipsets)))
			return nil, false, false
		}
		if s.bad {
			return nil, true, false
		}
		for _, h := range s.hosts {
			out = append(out, "host:"+h)
		}
		return out, false, true
	case strings.HasPrefix(text, "svc:"):
		t.unfitting(fileRules, v.place, "write a rule to the nodes that serve", "%s: %q, a service", what, text)
		return nil, true, false
	case t.hosts[bare].IsValid():
		return []string{"host:" + t.hostNames.name(bare)}, false, true
	case strings.Contains(text, "@"):
		return name(text)
	default:
		list, err := addresses(text)
		if err != nil {
			t.bad(v.place, "hosts are defined under hosts", "%s: host not found: %q%s", what, text, didYouMean(text, keys(t.hosts)))
			return nil, false, false
		}
		for _, p := range prefix.Union(list) {
			out = append(out, prefixText(p))
		}
		return out, false, true
	}
	return nil, false, false
}

// prefixText is a prefix as a selector: one address without its length.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// autogroup is what a group of the service's own selects.
func (t *tailscale) autogroup(v *value, text string, where side, what string) (out []string, lost, ok bool) {
	const roles = "write a group of these users and name it instead"
	switch strings.TrimPrefix(text, "autogroup:") {
	case "member", "members", "tagged":
		return []string{strings.Replace(text, "members", "member", 1)}, false, true
	case "self", "internet":
		if where == source {
			t.bad(v.place, "", "%s: %q is a destination only", what, text)
			return nil, false, false
		}
		return []string{text}, false, true
	case "danger-all":
		t.bad(v.place, `write "*"`, "%s: %q is a source only", what, text)
	case "nonroot":
		t.bad(v.place, "", "%s: %q is for SSH only", what, text)
	case "admin", "owner", "it-admin", "network-admin", "billing-admin", "auditor", "shared":
		t.unfitting(fileRules, v.place, roles, "%s: %q, users whom only the service knows", what, text)
		return nil, true, false
	default:
		t.bad(v.place, "", "%s: unknown %q%s", what, text, didYouMean(text, []string{
			"autogroup:member", "autogroup:tagged", "autogroup:self", "autogroup:internet", "autogroup:danger-all",
		}))
	}
	return nil, false, false
}
