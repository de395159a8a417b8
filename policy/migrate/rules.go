package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

func (t *tailscale) readRules() {
	acls, grants := t.root.field("acls"), t.root.field("grants")
	if acls.absent() && grants.absent() {
		t.allowAll()
	}
	for i, v := range t.array(acls, "acls") {
		t.acl(v, fmt.Sprintf("acls[%d]", i))
	}
	for i, v := range t.array(grants, "grants") {
		t.grant(v, fmt.Sprintf("grants[%d]", i))
	}
	for _, v := range []*value{acls, grants} {
		if v != nil {
			t.draft.header = append(t.draft.header, v.inside...)
		}
	}
}

// allowAll is the rule of a file that has none.
func (t *tailscale) allowAll() {
	t.anyPort = true
	t.add(rule{
		comments: []string{
			"There were neither acls nor grants, which allows everything. Write rules for",
			"what is needed, and take this one away.",
		},
		from: everySource, to: everyDestination, allow: []string{"service:" + anyPort},
	}, "allow-all")
}

// An entry is what acls and grants have in common.
type entry struct {
	value   *value
	what    string
	src     []*value
	from    []string
	lost    bool // something is left out without which it cannot be said
	posture []string
}

// comments are those at the entry and in it, but at its destinations.
func (e *entry) comments() []string {
	out := slices.Clone(e.value.comments)
	for _, m := range e.value.members {
		if !strings.EqualFold(m.name, "dst") && !strings.EqualFold(m.name, "ports") {
			out = append(out, m.value.all()...)
			continue
		}
		out = append(append(out, m.value.comments...), m.value.inside...)
	}
	return append(out, e.value.inside...)
}

// entryOf reads the fields of an entry, by the names in known; false where it is not
// an object.
func (t *tailscale) entryOf(v *value, what string, known ...string) (*entry, bool) {
	if v.kind != '{' {
		t.bad(v.place, "", "%s: want an object", what)
		return nil, false
	}
	for _, m := range v.members {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, m.name) }) {
			t.bad(m.place, "", "%s: unknown field %q%s", what, m.name, didYouMean(m.name, known))
		}
	}
	e := &entry{value: v, what: what}
	src := v.field("src")
	if src == nil {
		src = v.field("users") // as acls were written once
	}
	e.src = t.texts(src, what+".src")
	for _, s := range e.src {
		list, _, ok := t.end(s, s.str, source, what+".src")
		if ok {
			e.from = appendNew(e.from, list...)
		}
	}
	if p := v.field("srcPosture"); !p.empty() {
		e.posture = t.posture(p, what+".srcPosture")
		e.lost = e.posture == nil
	} else {
		e.posture, e.lost = t.standard, t.noRules
	}
	if e.lost {
		t.unfitting(fileRules, v.place, "", "%s: its posture", what)
	}
	return e, true
}

func appendNew(list []string, more ...string) []string {
	list = slices.Clip(list)
	for _, m := range more {
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// self reports whether sources may be used with autogroup:self, and tells where
// they may not: it is about people's own nodes.
func (t *tailscale) self(e *entry, at model.Place, any bool) bool {
	for _, s := range e.src {
		user := strings.HasPrefix(s.str, "group:") || s.str == "autogroup:member" || s.str == "autogroup:members" ||
			strings.Contains(s.str, "@") || any && s.str == "*"
		if strings.HasPrefix(s.str, "autogroup:") && t.roles(s.str) {
			user = true
		}
		if !user {
			t.bad(at, "", "%s: autogroup:self can only be used with users, groups, or autogroup:member as sources; there is %q", e.what, s.str)
			return false
		}
	}
	return true
}

// roles reports whether a name is one of the service's groups of users.
func (t *tailscale) roles(s string) bool {
	switch s {
	case "autogroup:admin", "autogroup:owner", "autogroup:it-admin", "autogroup:network-admin", "autogroup:billing-admin", "autogroup:auditor":
		return true
	}
	return false
}

func (t *tailscale) acl(v *value, what string) {
	e, ok := t.entryOf(v, what, "action", "src", "users", "dst", "ports", "proto", "srcPosture")
	if !ok {
		return
	}
	if a := v.field("action"); a.absent() || a.kind != '"' || a.str != "accept" {
		at := v.place
		if a != nil {
			at = a.place
		}
		t.bad(at, `there is no rule that denies`, `%s: action: want "accept"`, what)
	}
	proto := noProtocol
	if p := v.field("proto"); !p.absent() {
		var err error
		if proto, err = protocol(p.text()); err != nil || p.kind != '"' && p.kind != '0' {
			t.bad(p.place, "", "%s: proto: %v", what, orWant(err, "want a name or a number"))
			return
		}
	}
	dst := v.field("dst")
	if dst == nil {
		dst = v.field("ports")
	}
	var parts []*rule // by what they allow
	for _, d := range t.texts(dst, what+".dst") {
		host, portText, err := hostPort(d.str)
		if err != nil {
			t.bad(d.place, "", "%s.dst: %q: %v", what, d.str, err)
			continue
		}
		var allow []string
		list, err := spans(portText)
		if err == nil {
			allow, err = allowed(proto, list)
		}
		if err != nil {
			t.bad(d.place, "", "%s.dst: %q: %v", what, d.str, err)
			continue
		}
		to, _, ok := t.end(d, host, destination, what+".dst")
		if !ok || len(to) == 0 { // of an ipset nothing may be left
			continue
		}
		own := slices.Equal(to, []string{"autogroup:self"})
		if own && !t.self(e, d.place, true) {
			continue
		}
		i := slices.IndexFunc(parts, func(r *rule) bool {
			return slices.Equal(r.allow, tidy(allow)) && own == slices.Equal(r.to, []string{"autogroup:self"})
		})
		if i < 0 {
			i = len(parts)
			parts = append(parts, &rule{allow: tidy(allow)})
		}
		parts[i].to = appendNew(parts[i].to, to...)
		parts[i].comments = append(parts[i].comments, d.all()...)
	}
	t.rules(e, parts)
}

// tidy puts ping behind the ports.
func tidy(allow []string) []string {
	out := slices.DeleteFunc(slices.Clone(allow), func(s string) bool { return s == "icmp" })
	if len(out) < len(allow) {
		if len(out) == 1 && out[0] == "service:"+anyPort {
			return out
		}
		out = append(out, "icmp")
	}
	return out
}

// text is a scalar as text.
func (v *value) text() string {
	if v.kind == '"' {
		return v.str
	}
	return string(v.raw)
}

func orWant(err error, want string) string {
	if err != nil {
		return err.Error()
	}
	return want
}

func (t *tailscale) grant(v *value, what string) {
	e, ok := t.entryOf(v, what, "src", "dst", "ip", "app", "srcPosture", "via")
	if !ok {
		return
	}
	var allow []string
	for _, p := range t.texts(v.field("ip"), what+".ip") {
		list, err := grantPorts(p.str)
		if err != nil {
			t.bad(p.place, "", "%s.ip: %q: %v", what, p.str, err)
			continue
		}
		allow = appendNew(allow, list...)
	}
	caps := t.app(v.field("app"), what)
	if len(v.field("ip").entries()) == 0 && len(v.field("app").entries()) == 0 {
		t.bad(v.place, "", "%s: ip and app are both empty", what)
	}
	if via := v.field("via"); !via.empty() {
		for _, x := range t.texts(via, what+".via") {
			if _, there := t.tags[x.str]; !there {
				t.bad(x.place, "via is a list of tags", "%s.via: tag not found: %q", what, x.str)
			}
		}
		t.unfitting(fileRules, via.place, "agents choose the router; write routes with the tags in their via", "%s: via", what)
		e.lost = true
	}
	plain, own := &rule{allow: tidy(allow), capabilities: caps}, &rule{allow: tidy(allow), capabilities: caps}
	for _, d := range t.texts(v.field("dst"), what+".dst") {
		to, _, ok := t.end(d, d.str, destination, what+".dst")
		switch {
		case !ok:
		case d.str == "autogroup:self":
			if t.self(e, d.place, false) {
				own.to = to
				own.comments = append(own.comments, d.all()...)
			}
		case d.str == "autogroup:internet" && len(caps) > 0:
			t.bad(d.place, "", "%s: app is not for autogroup:internet", what)
		case isDefaultRoute(d.str):
			t.bad(d.place, `write "*" or "autogroup:internet"`, "%s.dst: %q: all addresses", what, d.str)
		default:
			if d.str == "*" && len(allow) == 0 {
				to = everySource // applications run on nodes
			}
			plain.to = appendNew(plain.to, to...)
			plain.comments = append(plain.comments, d.all()...)
		}
	}
	var parts []*rule
	for _, r := range []*rule{plain, own} {
		if len(r.to) > 0 {
			parts = append(parts, r)
		}
	}
	t.rules(e, parts)
}

// entries are the things in an array or object.
func (v *value) entries() []*value {
	if v == nil {
		return nil
	}
	out := slices.Clone(v.items)
	for _, m := range v.members {
		out = append(out, m.value)
	}
	return out
}

func isDefaultRoute(s string) bool {
	p, err := address(s)
	return err == nil && p.Bits() == 0
}

// grantPorts reads "*", "443", "80-443", "tcp:443", "udp:*".
func grantPorts(s string) ([]string, error) {
	protoText, portText, found := strings.Cut(s, ":")
	if !found {
		protoText, portText = "", s
	}
	if found && protoText == "" || strings.Contains(portText, ":") {
		return nil, fmt.Errorf("want PORTS or PROTOCOL:PORTS")
	}
	proto, err := protocol(protoText)
	if err != nil {
		return nil, err
	}
	list, err := spans(portText)
	if err != nil {
		return nil, err
	}
	return allowed(proto, list)
}

// ours are the capabilities of the service's own domain that policies may grant.
var ours = []string{"drive", "relay", "webui", "kubernetes", "tsidp", "secrets", "golink"}

// app is the capabilities of a grant.
func (t *tailscale) app(v *value, what string) (out []capability) {
	for _, m := range t.object(v, what+".app") {
		domain, path, ok := strings.Cut(m.name, "/")
		own, isOwn := strings.CutPrefix(m.name, "tailscale.com/cap/")
		switch {
		case !ok || domain == "" || path == "" || strings.Contains(m.name, "://"):
			t.bad(m.place, "", "%s.app: %q: a capability's name is DOMAIN/PATH", what, m.name)
			continue
		case domain == "tailscale.com" && !(isOwn && slices.Contains(ours, own)):
			t.bad(m.place, "", "%s.app: %q: names in this domain are the service's own", what, m.name)
			continue
		case m.value.kind != '[' && !m.value.absent():
			t.bad(m.value.place, "", "%s.app: %q: want a list", what, m.name)
			continue
		}
		c := capability{name: m.name, value: []byte("[]")}
		if !m.value.absent() {
			c.value = m.value.standard()
		}
		out = append(out, c)
	}
	return out
}

// rules adds what an entry becomes: a rule for each part.
func (t *tailscale) rules(e *entry, parts []*rule) {
	switch {
	case e.lost:
		for _, r := range parts {
			r.from = e.from
			t.leftOut = append(t.leftOut, *r)
		}
		return
	case len(e.from) == 0 || len(parts) == 0:
		if len(t.invalid) == 0 {
			t.notes(fmt.Sprintf("%s gave nothing: it has no sources or no destinations.", e.what), e.value.all())
		}
		return
	}
	comments := e.comments()
	for i, r := range parts {
		r.from, r.posture = e.from, e.posture
		if slices.Equal(r.to, []string{"autogroup:self"}) && slices.Contains(r.from, "*") {
			r.from = []string{"autogroup:member"} // whoever has nodes of their own
		}
		if slices.Contains(r.allow, "service:"+anyPort) {
			t.anyPort = true
		}
		r.why = why(append(slices.Clone(comments), r.comments...))
		if i == 0 {
			r.comments = append(slices.Clone(comments), r.comments...)
		}
		name := titled(e.value.comments)
		switch {
		case name == "":
			name = between(r)
		case i > 0:
			name += "-" + short(r.to)
		}
		t.add(*r, name)
	}
}
