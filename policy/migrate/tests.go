package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func (t *tailscale) readTests() {
	for i, v := range t.array(t.root.field("tests"), "tests") {
		t.test(v, fmt.Sprintf("tests[%d]", i))
	}
}

func (t *tailscale) test(v *value, what string) {
	if v.kind != '{' {
		t.bad(v.place, "", "%s: want an object", what)
		return
	}
	known := []string{"src", "user", "proto", "accept", "allow", "deny", "srcPostureAttrs"}
	for _, m := range v.members {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, m.name) }) {
			t.bad(m.place, "", "%s: unknown field %q%s", what, m.name, didYouMean(m.name, known))
		}
	}
	either := func(name, old string) *value {
		if f := v.field(name); f != nil {
			return f
		}
		return v.field(old)
	}
	src := either("src", "user")
	if src == nil || src.kind != '"' || strings.TrimSpace(src.str) == "" {
		at := v.place
		if src != nil {
			at = src.place
		}
		t.bad(at, "", "%s: src: want one source", what)
		return
	}
	accept, deny := either("accept", "allow"), v.field("deny")
	if accept.empty() && deny.empty() {
		t.bad(v.place, "", "%s: neither accept nor deny", what)
	}
	proto := noProtocol
	if p := v.field("proto"); !p.empty() {
		switch strings.ToLower(p.text()) {
		case "tcp":
			proto = 6
		case "udp":
			proto = 17
		case "sctp":
			proto = 132
		default:
			t.bad(p.place, "", "%s: proto %q: tests are of tcp, udp or sctp", what, p.text())
		}
	}
	from, lost, ok := t.end(src, src.str, source, what+".src")
	var out test
	out.comments = v.all()
	reports := t.reports(&out, v.field("srcPostureAttrs"), what)
	for _, part := range []struct {
		list   *value
		name   string
		accept bool
		into   *[]assertion
	}{{accept, "accept", true, &out.allow}, {deny, "deny", false, &out.deny}} {
		for _, d := range t.texts(part.list, what+"."+part.name) {
			to, port, fits := t.testDestination(d, what+"."+part.name)
			if !fits || !ok {
				continue
			}
			a := assertion{fromList: from, toList: to, posture: reports}
			on, open := t.on(proto, port, part.accept, from, to)
			if part.accept && !open && t.opt.Partial && t.rests(from, to, proto, port) {
				t.unfitting(fileTests, d.place, "write the rule, and the test with it", "%s.%s: %q: the rule that it is about is not carried over", what, part.name, d.str)
				continue
			}
			a.on = on
			*part.into = append(*part.into, a)
		}
	}
	if lost || len(out.allow)+len(out.deny) == 0 {
		return
	}
	t.addTest(out, told(src.str, accept, deny), v.comments)
}

// told says in words what a test says.
func told(src string, accept, deny *value) string {
	list, verb := accept, " reaches "
	if accept.empty() {
		list, verb = deny, " does not reach "
	}
	if list.empty() || list.kind != '[' {
		return src
	}
	host, _, err := hostPort(list.items[0].str)
	if err != nil {
		return src
	}
	if n := len(list.items); n > 1 {
		host += fmt.Sprintf(" and %d more", n-1)
	}
	return src + verb + host
}

// testDestination reads where a test goes: one address, or what one name selects,
// and one port.
func (t *tailscale) testDestination(d *value, what string) (to []string, port span, ok bool) {
	host, portText, err := hostPort(d.str)
	if err != nil {
		t.bad(d.place, "", "%s: %q: %v", what, d.str, err)
		return nil, port, false
	}
	list, err := spans(portText)
	switch {
	case err != nil:
		t.bad(d.place, "", "%s: %q: %v", what, d.str, err)
		return nil, port, false
	case len(list) != 1 || list[0] == span{} || list[0].first != list[0].last:
		t.bad(d.place, "write a test for each", "%s: %q: a test is of one port", what, d.str)
		return nil, port, false
	}
	before := len(t.invalid)
	p, isHost := t.hosts[strings.TrimPrefix(host, "host:")]
	switch {
	case host == "autogroup:internet":
		t.bad(d.place, "", "%s: %q: not in tests", what, d.str)
	case strings.Contains(host, "/"), isHost && !p.IsSingleIP(), isRange(host), t.ipsets[host] != nil && len(t.ipsets[host].hosts) != 1:
		t.bad(d.place, "write a test for one of the addresses", "%s: %q: a test is of one address", what, d.str)
	case host == "autogroup:self":
		t.unfitting(fileTests, d.place, "name the user", "%s: %q", what, d.str)
		return nil, port, false
	}
	if len(t.invalid) > before {
		return nil, port, false
	}
	to, _, ok = t.end(d, host, destination, what)
	to = slices.DeleteFunc(slices.Clone(to), func(s string) bool { return s == "autogroup:internet" })
	return to, list[0], ok
}

func isRange(s string) bool {
	a, _, ok := strings.Cut(s, "-")
	_, err := netip.ParseAddr(a)
	return ok && err == nil
}

// reports are what a test's source reports of itself. Attributes that no posture
// here can ask for do not matter.
func (t *tailscale) reports(x *test, v *value, what string) (out []attr) {
	for _, m := range t.object(v, what+".srcPostureAttrs") {
		name := attribute(m.name)
		switch {
		case name == "":
			x.comments = append(x.comments, fmt.Sprintf("%s is left out: no rule here asks for it.", clean(m.name)))
		case m.value.kind == '{' || m.value.kind == '[' || m.value.text() == "":
			t.bad(m.value.place, "", "%s.srcPostureAttrs: %q: want a value", what, m.name)
		default:
			out = append(out, attr{name: name, values: []string{m.value.text()}})
		}
	}
	return out
}

// on is the ports of an assertion. Without a protocol TCP or UDP will do to
// accept, and neither may be open to deny. Open reports whether a rule opens them
// to what is accepted, as far as the names show; where none does, the test asks
// for TCP, and fails as it does there.
func (t *tailscale) on(proto int, port span, accept bool, from, to []string) (on []string, open bool) {
	protos := []int{6, 17}
	if proto != noProtocol {
		protos = []int{proto}
	}
	var texts []string
	for _, p := range protos {
		texts = append(texts, protoNames[p]+"/"+port.String())
	}
	if !accept {
		return texts, false
	}
	for i, p := range protos {
		if t.opened(t.draft.rules, from, to, p, port) {
			return texts[i : i+1], true
		}
	}
	return texts[:1], false
}

// rests reports whether one of the rules that are not carried over is what a test
// is about.
func (t *tailscale) rests(from, to []string, proto int, port span) bool {
	return slices.ContainsFunc([]int{6, 17, 132}, func(p int) bool {
		return (proto == p || proto == noProtocol && p != 132) && t.opened(t.leftOut, from, to, p, port)
	})
}

// opened reports whether one of the rules may open a port.
func (t *tailscale) opened(rules []rule, from, to []string, proto int, port span) bool {
	return slices.ContainsFunc(rules, func(r rule) bool {
		return t.mayReach(r.from, from) && t.mayReach(r.to, to) && opens(r.allow, proto, port.first)
	})
}

// protoNames are the protocols of tests.
var protoNames = map[int]string{6: "tcp", 17: "udp", 132: "sctp"}

// opens reports whether ports as written contain one.
func opens(allow []string, proto, port int) bool {
	name := protoNames[proto]
	for _, a := range allow {
		if a == "service:"+anyPort && proto != 132 || a == fmt.Sprintf("proto/%d", proto) {
			return true
		}
		if rest, ok := strings.CutPrefix(a, name+"/"); ok {
			if list, err := spans(rest); err == nil && list[0].first <= port && port <= list[0].last {
				return true
			}
		}
	}
	return false
}

// mayReach reports whether a list of a rule may select what a list of a test does,
// as far as the names show.
func (t *tailscale) mayReach(rule, asked []string) bool {
	for _, r := range rule {
		for _, a := range asked {
			if r == "*" || a == "*" || r == a || t.covers(r, a) {
				return true
			}
		}
	}
	return false
}

func (t *tailscale) covers(r, a string) bool {
	user := strings.Contains(a, "@")
	switch {
	case r == "autogroup:member":
		return user || strings.HasPrefix(a, "group:")
	case r == "autogroup:tagged":
		return strings.HasPrefix(a, "tag:")
	case strings.HasPrefix(r, "group:") && user:
		return slices.ContainsFunc(t.draft.groups, func(g group) bool {
			return "group:"+g.name == r && slices.ContainsFunc(g.members, func(m entryText) bool { return m.text == a })
		})
	}
	p, q := t.prefixOf(r), t.prefixOf(a)
	return p.IsValid() && q.IsValid() && p.Overlaps(q)
}

// prefixOf is the addresses of a selector, invalid for one of nodes.
func (t *tailscale) prefixOf(s string) netip.Prefix {
	if name, ok := strings.CutPrefix(s, "host:"); ok {
		for _, h := range t.draft.hosts {
			if h.name == name {
				return h.prefix
			}
		}
	}
	p, err := address(s)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
