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
	root       *value // of the policy, to say what a name was meant to be; may be nil
	exceptions int    // of all selectors so far
	problems   Problems
	warnings   Problems
}

func (d *decoder) policy(v *value) *Policy {
	d.root = v
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
	each(v, "routes", func(prefix string, v *value) { p.Routes = append(p.Routes, d.route(prefix, v)) })
	p.Exit = d.exit(v.field("exit"))
	each(v, "postures", func(name string, v *value) { p.Postures = append(p.Postures, d.posture(name, v)) })
	each(v, "identity", func(name string, v *value) { p.Identity = append(p.Identity, d.identity(name, v)) })
	each(v, "teams", func(name string, v *value) { p.Teams = append(p.Teams, d.team(name, v)) })
	each(v, "rules", func(name string, v *value) { p.Rules = append(p.Rules, d.rule(name, v)) })
	each(v, "tests", func(name string, v *value) { p.Tests = append(p.Tests, d.test(name, v)) })
	each(v, "enrolment", func(name string, v *value) { p.Enrolment = append(p.Enrolment, d.enrolment(name, v)) })
	each(v, "nodes", func(name string, v *value) { p.Nodes = append(p.Nodes, d.node(name, v)) })
	each(v, "relays", func(name string, v *value) {
		d.name("relay", name, v)
		what := subject("relay", name)
		p.Relays = append(p.Relays, Relay{name, d.addr(v.field("addr"), what), d.nodeKey(v.field("key"), what), d.stun(v, what), v.place})
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
	n.Session = d.session(v.field("session"))
	if literal := v.field("literalAddresses"); literal != nil {
		n.LiteralAddresses = literal.yes
	}
	each(v, "coordinators", func(name string, v *value) {
		d.name("coordinator", name, v)
		what := subject("coordinator", name)
		n.Coordinators = append(n.Coordinators, Coordinator{name, d.addr(v.field("addr"), what), d.pin(v.field("pin"), what), v.place})
	})
	return n
}

func (d *decoder) rule(name string, v *value) Rule {
	d.name("rule", name, v)
	what := subject("rule", name)
	allow := v.field("allow")
	switch {
	case allow != nil:
		d.notEmpty(allow, what, `"allow"`)
	case v.field("capabilities") == nil:
		d.problems.Add(v.place, `%s: neither "allow" nor "capabilities": it gives nothing`, what)
	}
	return Rule{
		Name:         name,
		From:         d.ends(v.field("from"), what, "from"),
		To:           d.ends(v.field("to"), what, "to"),
		Allow:        d.ports(allow, what),
		Until:        d.time(v.field("until"), what),
		Hours:        d.hours(v.field("hours"), what),
		Posture:      d.postureNames(v.field("posture"), what),
		Capabilities: d.capabilities(v.field("capabilities"), what),
		Why:          d.text(v.field("why"), what, "why"),
		Owner:        d.owner(v.field("owner"), what),
		Place:        v.place,
	}
}

// owner reads who answers for a rule.
func (d *decoder) owner(v *value, what string) string {
	if v == nil {
		return ""
	}
	if r, ok := d.ref(v, what); ok && r.Selector.Kind != acl.KindUser && r.Selector.Kind != acl.KindGroup {
		d.problems.Add(v.place, "%s: an owner is a user or a group, not %s", what, r.Selector)
	}
	return v.str
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
	on := v.field("on")
	if on != nil {
		d.notEmpty(on, what, `"on"`)
	}
	empty := v.field("allowEmpty")
	return Assertion{
		From:       d.ends(v.field("from"), what, "from"),
		To:         d.ends(v.field("to"), what, "to"),
		On:         d.ports(on, what),
		At:         d.time(v.field("at"), what),
		Posture:    d.reported(v.field("posture"), what),
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
	e.Expires = d.time(v.field("expires"), what)
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
	n := Node{Name: name, Key: d.nodeKey(v.field("key"), what), Tags: d.tags(v.field("tags"), what), Place: v.place}
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

// ports reads a list of ports; Check expands it.
func (d *decoder) ports(v *value, what string) (ports []PortRef) {
	if v == nil {
		return nil
	}
	for _, item := range v.items {
		if name, ok := serviceName(item.str); ok {
			d.add(item.place, what, acl.CheckName("service", name))
		} else if _, err := acl.ParsePorts(item.str); err != nil {
			d.problems.Add(item.place, "%s: %s%s", what, clean(err.Error()), didYouMean(d.meantPorts(item.str)))
			continue
		}
		ports = append(ports, PortRef{item.str, item.place})
	}
	return ports
}

func (d *decoder) nodeKey(v *value, what string) key.IdentityPublic {
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
	return d.nodeKey(v, what)
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
