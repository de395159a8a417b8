package model

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// A decoder turns a value of the schema's shape into a Policy. It says what is
// wrong with each text by itself; whether names exist is Check's.
type decoder struct {
	problems Problems
	warnings Problems
}

func (d *decoder) policy(v *value) *Policy {
	p := &Policy{Network: d.network(v.field("network"))}
	p.Admins = d.principals(v.field("admins"), "admins", false)
	each(v, "groups", func(name string, v *value) { p.Groups = append(p.Groups, d.group(name, v)) })
	each(v, "tags", func(name string, v *value) {
		d.name("tag", name, v)
		p.Tags = append(p.Tags, Tag{name, d.principals(v.field("owners"), subject("tag", name), true), v.place})
	})
	each(v, "hosts", func(name string, v *value) {
		d.name("host", name, v)
		prefix, err := parsePrefix(v.str)
		d.add(v.place, subject("host", name), err)
		p.Hosts = append(p.Hosts, Host{name, prefix, v.place})
	})
	each(v, "services", func(name string, v *value) {
		d.name("service", name, v)
		p.Services = append(p.Services, Service{name, d.ports(v, subject("service", name)), v.place})
		d.notEmpty(v, subject("service", name), "ports")
	})
	each(v, "rules", func(name string, v *value) { p.Rules = append(p.Rules, d.rule(name, v)) })
	each(v, "tests", func(name string, v *value) { p.Tests = append(p.Tests, d.test(name, v)) })
	each(v, "enrolment", func(name string, v *value) { p.Enrolment = append(p.Enrolment, d.enrolment(name, v)) })
	each(v, "nodes", func(name string, v *value) { p.Nodes = append(p.Nodes, d.node(name, v)) })
	each(v, "relays", func(name string, v *value) {
		d.name("relay", name, v)
		what := subject("relay", name)
		p.Relays = append(p.Relays, Relay{name, d.addr(v.field("addr"), what), d.identity(v.field("key"), what), d.stun(v, what), v.place})
	})
	each(v, "revoked", func(id string, v *value) {
		node, err := key.ParseNodeID(id)
		d.add(v.place, "revoked "+quoteName(id), err)
		p.Revoked = append(p.Revoked, Revoked{node, d.text(v.field("why"), "revoked "+quoteName(id), "why"), v.place})
	})
	return p
}

// each calls f for every named thing of a block, by name.
func each(v *value, block string, f func(name string, v *value)) {
	if b := v.field(block); b != nil {
		for _, field := range b.fields {
			f(field.name, field.value)
		}
	}
}

// subject names a thing of the policy in a message.
func subject(what, name string) string { return what + " " + quoteName(name) }

// add tells err, if there is one, about the subject.
func (d *decoder) add(at Place, subject string, err error) {
	if err != nil {
		d.problems.Add(at, "%s: %s", subject, clean(err.Error()))
	}
}

func (d *decoder) name(what, name string, v *value) {
	err := checkASCII(what+" name", name)
	if err == nil {
		err = acl.CheckName(what, name)
	}
	if err != nil {
		d.problems.Add(v.place, "%s", clean(err.Error()))
	}
}

func (d *decoder) notEmpty(v *value, subject, what string) {
	if len(v.items) == 0 {
		d.problems.Add(v.place, "%s: the list of %s is empty", subject, what)
	}
}

func (d *decoder) network(v *value) Network {
	n := Network{Name: v.field("name").str, Domain: v.field("domain").str, Place: v.place}
	d.add(v.field("name").place, "network", acl.CheckLabel("network", n.Name))
	d.add(v.field("domain").place, "network", checkDomain(n.Domain))
	prefix := v.field("prefix4")
	var err error
	n.Prefix4, err = parsePrefix4(prefix.str)
	d.add(prefix.place, "network: prefix4", err)
	each(v, "coordinators", func(name string, v *value) {
		d.name("coordinator", name, v)
		what := subject("coordinator", name)
		n.Coordinators = append(n.Coordinators, Coordinator{name, d.addr(v.field("addr"), what), d.pin(v.field("pin"), what), v.place})
	})
	return n
}

func (d *decoder) group(name string, v *value) Group {
	d.name("group", name, v)
	what := subject("group", name)
	g := Group{Name: name, Place: v.place}
	for _, item := range v.items {
		m := Member{Place: item.place}
		text := item
		if item.kind == kindStruct {
			text = item.field("member")
			m.Until = d.time(item.field("until"), what)
		}
		ref, ok := d.ref(text, what)
		if !ok {
			continue
		}
		switch ref.Selector.Kind {
		case acl.KindUser, acl.KindGroup, acl.KindTag:
			m.Selector = ref.Selector
			g.Members = append(g.Members, m)
		default:
			d.problems.Add(text.place, "%s: a member is a user, a group or a tag, not %s", what, ref.Selector)
		}
	}
	return g
}

func (d *decoder) rule(name string, v *value) Rule {
	d.name("rule", name, v)
	what := subject("rule", name)
	for _, f := range []string{"from", "to", "allow"} {
		d.notEmpty(v.field(f), what, quoteName(f))
	}
	return Rule{
		Name:  name,
		From:  d.refs(v.field("from"), what),
		To:    d.refs(v.field("to"), what),
		Allow: d.ports(v.field("allow"), what),
		Until: d.time(v.field("until"), what),
		Why:   d.text(v.field("why"), what, "why"),
		Place: v.place,
	}
}

func (d *decoder) test(name string, v *value) Test {
	what := subject("test", name)
	d.add(v.place, what, checkText("name", name))
	t := Test{Name: name, Place: v.place}
	assertions := func(field string) (out []Assertion) {
		list := v.field(field)
		if list == nil {
			return nil
		}
		for _, item := range list.items {
			out = append(out, d.assertion(item, what))
		}
		return out
	}
	t.Allow, t.Deny = assertions("allow"), assertions("deny")
	for _, a := range assertions("only") {
		t.Only = append(t.Only, Only(a))
	}
	if len(t.Allow)+len(t.Deny)+len(t.Only) == 0 {
		d.problems.Add(v.place, "%s: asserts nothing", what)
	}
	return t
}

func (d *decoder) assertion(v *value, what string) Assertion {
	for _, f := range []string{"from", "to"} {
		if e := v.field(f); e.kind == kindList {
			d.notEmpty(e, what, quoteName(f))
		}
	}
	on := v.field("on")
	if on != nil {
		d.notEmpty(on, what, `"on"`)
	}
	empty := v.field("allowEmpty")
	return Assertion{
		From:       d.refs(v.field("from"), what),
		To:         d.refs(v.field("to"), what),
		On:         d.ports(on, what),
		At:         d.time(v.field("at"), what),
		AllowEmpty: empty != nil && empty.yes,
		Place:      v.place,
	}
}

func (d *decoder) enrolment(name string, v *value) Enrolment {
	d.name("enrolment", name, v)
	what := subject("enrolment", name)
	e := Enrolment{Name: name, Tags: d.tags(v.field("tags"), what), Place: v.place}
	var err error
	e.Key, err = key.ParseEnrolPublic(v.field("key").str)
	d.add(v.field("key").place, what, err)
	d.notEmpty(v.field("tags"), what, `"tags"`)
	d.notEmpty(v.field("names"), what, `"names"`)
	for _, n := range v.field("names").items {
		d.add(n.place, what, checkPattern(n.str))
		e.Names = append(e.Names, n.str)
	}
	return e
}

func (d *decoder) node(name string, v *value) Node {
	what := subject("node", name)
	if err := acl.CheckLabel("node", name); err != nil {
		d.problems.Add(v.place, "%s", clean(err.Error()))
	}
	n := Node{Name: name, Key: d.identity(v.field("key"), what), Tags: d.tags(v.field("tags"), what), Place: v.place}
	if user := v.field("user"); user != nil {
		n.User = user.str
		d.add(user.place, what, checkUser(user.str))
	}
	if a := v.field("address4"); a != nil {
		var err error
		n.Address4, err = parseAddr4(a.str)
		d.add(a.place, what, err)
	}
	if tags := v.field("tags"); tags != nil {
		d.notEmpty(tags, what, `"tags"`)
	}
	n.Endpoints = d.endpoints(v.field("endpoints"), what)
	return n
}

// ref reads one selector.
func (d *decoder) ref(v *value, what string) (Ref, bool) {
	if _, err := parsePrefix(v.str); err == nil {
		d.problems.Add(v.place, "%s: %s: addresses as selectors are not enforced by this version", what, v.str)
		return Ref{}, false
	}
	err := checkASCII("selector", v.str)
	var sel acl.Selector
	if err == nil {
		sel, err = acl.ParseSelector(v.str)
	}
	if err != nil {
		d.add(v.place, what, err)
		return Ref{}, false
	}
	switch sel.Kind {
	case acl.KindPrefix, acl.KindHost, acl.KindInternet, acl.KindClaim:
		d.problems.Add(v.place, "%s: %s: addresses, hosts and claims as selectors are not enforced by this version", what, sel)
		return Ref{}, false
	}
	return Ref{Selector: sel, Place: v.place}, true
}

// refs reads one selector or a list of them. One that is written twice counts
// once.
func (d *decoder) refs(v *value, what string) (refs []Ref) {
	if v == nil {
		return nil
	}
	items := v.items
	if v.kind == kindString {
		items = []*value{v}
	}
	seen := map[acl.Selector]Place{}
	for _, item := range items {
		ref, ok := d.ref(item, what)
		if !ok {
			continue
		}
		if before, ok := seen[ref.Selector]; ok {
			d.warnings = append(d.warnings, Problem{Place: ref.Place, Also: []Place{before},
				Message: fmt.Sprintf("%s: %s is written twice", what, ref.Selector)})
			continue
		}
		seen[ref.Selector] = ref.Place
		refs = append(refs, ref)
	}
	return refs
}

// principals reads a list of users and groups, and of tags where they may own.
func (d *decoder) principals(v *value, what string, tags bool) (out []Ref) {
	for _, r := range d.refs(v, what) {
		switch k := r.Selector.Kind; {
		case k == acl.KindUser, k == acl.KindGroup, k == acl.KindTag && tags:
			out = append(out, r)
		case tags:
			d.problems.Add(r.Place, "%s: an owner is a user, a group or a tag, not %s", what, r.Selector)
		default:
			d.problems.Add(r.Place, "%s: want a user or a group, not %s", what, r.Selector)
		}
	}
	return out
}

// tags reads the tags that a node bears.
func (d *decoder) tags(v *value, what string) (out []Ref) {
	for _, r := range d.refs(v, what) {
		if r.Selector.Kind != acl.KindTag {
			d.problems.Add(r.Place, "%s: %s is not a tag", what, r.Selector)
			continue
		}
		out = append(out, r)
	}
	return out
}

// ports reads a list of ports; Check expands it.
func (d *decoder) ports(v *value, what string) (ports []PortRef) {
	if v == nil {
		return nil
	}
	for _, item := range v.items {
		if name, ok := serviceName(item.str); ok {
			d.add(item.place, what, acl.CheckName("service", name))
		} else if _, err := acl.ParsePorts(item.str); err != nil {
			d.add(item.place, what, err)
			continue
		}
		ports = append(ports, PortRef{item.str, item.place})
	}
	return ports
}

func (d *decoder) identity(v *value, what string) key.IdentityPublic {
	k, err := key.ParseIdentityPublic(v.str)
	d.add(v.place, what, err)
	return k
}

// pin reads the key of a coordinator's certificate.
func (d *decoder) pin(v *value, what string) key.IdentityPublic {
	if v.str == "webpki" {
		d.problems.Add(v.place, "%s: webpki is not enforced by this version: write the key that the coordinator prints", what)
		return key.IdentityPublic{}
	}
	return d.identity(v, what)
}

func (d *decoder) addr(v *value, what string) string {
	d.add(v.place, what, checkHostPort(v.str))
	return v.str
}

// text reads a text for people, "" when there is none.
func (d *decoder) text(v *value, what, field string) string {
	if v == nil {
		return ""
	}
	d.add(v.place, what, checkText(field, v.str))
	return v.str
}

// checkASCII tells the first character of a name that is none of ASCII: most of
// them look like another, or like nothing.
func checkASCII(what, s string) error {
	for _, r := range s {
		if r >= 0x80 {
			return fmt.Errorf("%s %s: %U is not allowed; names are ASCII", what, quoteName(s), r)
		}
	}
	return nil
}

// maxText is the longest text for people, in bytes: a line of a report.
const maxText = 500

// checkText checks a text that is shown to people, on terminals too.
func checkText(what, s string) error {
	if len(s) > maxText {
		return fmt.Errorf("%s of %d bytes: at most %d", what, len(s), maxText)
	}
	if s == "" {
		return fmt.Errorf("%s is empty", what)
	}
	for _, r := range s {
		if !plainRune(r) {
			return fmt.Errorf("%s: %U is not allowed", what, r)
		}
	}
	return nil
}

// plainRune reports whether r shows as itself: no control character, no
// invisible one, none that changes the direction of others.
func plainRune(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }
