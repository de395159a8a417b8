package model

import (
	"strings"
	"testing"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"
	"github.com/google/go-cmp/cmp"
)

// TestSchemaAlone holds that the schema refuses by itself what the shape
// refuses: the shape is for words, the schema for certainty.
func TestSchemaAlone(t *testing.T) {
	const good = `
network: {name: "acme", domain: "acme.mesh", coordinators: eu: {addr: "a:1", pin: "p"}}
admins: ["a@x.example"]
groups: g: ["a@x.example", {claim: {name: "n", value: "v"}, until: "x"}, {member: "b@x.example", until: "2027-01-01T00:00:00Z"}]
tags: t: owners: ["group:g"]
hosts: h: "10.0.0.1"
services: s: ["tcp/1"]
routes: "10.0.0.0/8": via: ["tag:t"]
exit: via: ["tag:t"]
postures: p: {os: ["macos"], "custom:x": "*"}
identity: i: {issuer: "x", clientID: "y", members: ["z"]}
teams: m: scope: ["tag:t"]
rules: r: {from: ["*"], to: ["*"], allow: ["icmp"], until: "x", why: "y", owner: "z"}
rules: q: {
	from: ["*", {any: ["*"], except: ["tag:t"]}]
	to: {any: ["*"], except: ["tag:t"]}
	hours: [{days: ["mon"], from: "x", to: "y", zone: "z"}]
	posture: ["p"]
	capabilities: {"a.example/b": {c: [1, null, {d: true}]}, "a.example/d": 7}
}
tests: t: {
	allow: [{from: "*", to: ["*"], on: ["icmp"], at: "x", allowEmpty: true}]
	deny: [{from: "*", to: ["*"], posture: os: "linux"}, {from: {any: ["*"], except: ["tag:t"]}, to: [{any: ["*"], except: []}]}]
	only: [{from: "*", to: ["*"]}]
}
enrolment: e: {key: "k", tags: ["tag:t"], names: ["n"], expires: "x"}
nodes: n: {key: "k", user: "u", address4: "a"}
relays: r: {addr: "a:1", key: "k"}
revoked: "nid:x": why: "y"
`
	bad := map[string]string{
		"field at the root":    "rulez: {}",
		"field in network":     "network: domian: \"x\"",
		"field of coordinator": "network: coordinators: eu: pim: \"x\"",
		"field in a member":    "groups: h: [{member: \"m\", untill: \"x\"}]",
		"field in a tag":       "tags: t: owner: []",
		"field in a rule":      "rules: r: form: []",
		"field in a test":      "tests: t: alow: []",
		"field in allow":       "tests: u: allow: [{from: \"*\", to: \"*\", on: [\"icmp\"], att: \"x\"}]",
		"field in deny":        "tests: u: deny: [{from: \"*\", to: \"*\", att: \"x\"}]",
		"field in only":        "tests: u: only: [{from: \"*\", to: \"*\", att: \"x\"}]",
		"field in enrolment":   "enrolment: e: expire: \"x\"",
		"field in a node":      "nodes: n: tag: []",
		"field in a relay":     "relays: r: addrs: []",
		"field in revoked":     "revoked: \"nid:x\": wyh: \"x\"",
		"no destination":       "rules: s: {from: [\"*\"], allow: [\"icmp\"]}",
		"field in a claim":     "groups: h: [{claim: {name: \"n\", value: \"v\", is: \"x\"}}]",
		"field in a window":    "rules: r: hours: [{from: \"09:00\", to: \"10:00\", zone: \"UTC\", day: \"mon\"}]",
		"field in from":        "rules: s: {from: {any: [\"*\"], except: [], but: []}, to: [\"*\"]}",
		"field in an end":      "rules: s: {from: [{any: [\"*\"], but: []}], to: [\"*\"]}",
		"difference inside":    "rules: s: {from: {any: [{any: [], except: []}], except: []}, to: [\"*\"]}",
		"field in a route":     "routes: \"10.0.0.0/8\": vai: []",
		"field in exit":        "exit: by: []",
		"field in identity":    "identity: i: member: []",
		"field in a team":      "teams: m: scop: []",
		"number in a posture":  "postures: q: os: 7",
		"number reported":      "tests: u: deny: [{from: \"*\", to: \"*\", posture: os: 7}]",
		"allow without on":     "tests: u: allow: [{from: \"*\", to: \"*\"}]",
		"string for list":      "rules: s: {from: \"*\", to: [\"*\"], allow: [\"icmp\"]}",
		"number for string":    "hosts: i: 1",
	}
	ctx := cuecontext.New()
	check := func(text string) error {
		v := ctx.CompileString(text)
		if err := v.Err(); err != nil {
			t.Fatal(err)
		}
		return v.Unify(schema(ctx)).Validate(cue.Concrete(true))
	}
	if err := check(good); err != nil {
		t.Fatalf("good: %v", err)
	}
	for name, text := range bad {
		if err := check(good + text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestShape holds that the shape says what the schema says, in one place of
// each form the schema uses.
func TestShape(t *testing.T) {
	s := policyShape()
	for _, row := range []struct {
		what     string
		shape    *shape
		want     string
		required string
	}{
		{"policy", s, "{network: …}", "network"},
		{"network", s.fields["network"], "{domain: …}", "domain name"},
		{"coordinator", s.fields["network"].fields["coordinators"].any, "{addr: …}", "addr pin"},
		{"groups", s.fields["groups"], "a struct", ""},
		{"group", s.fields["groups"].any, "a list", ""},
		{"member", s.fields["groups"].any.elem, "a string or {claim, member, until}", ""},
		{"rule", s.fields["rules"].any, "{from: …}", "from to"},
		{"rule from", s.fields["rules"].any.fields["from"], "a list or {any: …}", "any except"},
		{"rule from item", s.fields["rules"].any.fields["from"].elem, "a string or {any: …}", "any except"},
		{"capability", s.fields["rules"].any.fields["capabilities"].any, "any JSON value", ""},
		{"attribute", s.fields["postures"].any.any, "a string or a list of strings", ""},
		{"allow", s.fields["tests"].any.fields["allow"].elem, "{from: …}", "from on to"},
		{"deny", s.fields["tests"].any.fields["deny"].elem, "{from: …}", "from to"},
		{"from", s.fields["tests"].any.fields["deny"].elem.fields["from"], "a string or a list or {any: …}", "any except"},
		{"allowEmpty", s.fields["tests"].any.fields["deny"].elem.fields["allowEmpty"], "true or false", ""},
	} {
		got := []string{row.shape.want(), strings.Join(row.shape.required, " ")}
		if diff := cmp.Diff([]string{row.want, row.required}, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", row.what, diff)
		}
	}
}

// TestUnenforcedIsNotInTheSchema holds that a construct is either enforced or
// refused by name, and that nothing is misplaced where it belongs.
func TestUnenforcedIsNotInTheSchema(t *testing.T) {
	var paths [][]string
	for _, u := range unenforced {
		paths = append(paths, u.path)
	}
	for _, m := range misplaced {
		paths = append(paths, m.path)
	}
	for _, path := range paths {
		at := []*shape{policyShape()}
		for _, label := range path {
			var next []*shape
			for _, s := range at {
				switch {
				case label != "*":
					if f := s.fields[label]; f != nil {
						next = append(next, f)
					}
				default:
					for _, f := range s.fields {
						next = append(next, f)
					}
					if s.any != nil {
						next = append(next, s.any)
					}
					if s.elem != nil {
						next = append(next, s.elem)
					}
				}
			}
			at = next
		}
		if len(at) > 0 {
			t.Errorf("%v is in the schema", path)
		}
	}
}
