// Package policytest makes policies of any size, for benchmarks and tests.
//
// A policy of [Company] looks like that of a large company: people in teams,
// teams in departments, services behind tags, and rules from teams to services.
// It is sound and all of its tests pass, which is known here from the lists that
// the text is written from and not from reading it back. The same numbers give
// the same bytes.
//
//	network.cue        the network, its administrators, services by name
//	groups/NNN.cue     departments, forty teams to a file; the people
//	tags.cue           a tag for every ten rules
//	rules/NNN.cue      250 rules to a file
//	tests/NNN.cue      50 tests to a file, ten assertions each
//
// Only plain data is written: no references, comprehensions or definitions.
// [Inventory] are nodes of the same company.
package policytest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing/fstest"
)

const (
	teamsInFile   = 40
	rulesInFile   = 250
	testsInFile   = 50
	assertionsPer = 10 // of a test
	rulesPerTag   = 10
	teamsInDept   = 9 // so that a tenth of the groups are departments
)

// A company is what the text is written from.
type company struct {
	users, teams, depts, tags, rules int
}

func newCompany(users, groups, rules int) company {
	depts := max(groups/(teamsInDept+1), 1)
	return company{
		users: users,
		teams: max(groups-depts, 1),
		depts: depts,
		tags:  max(rules/rulesPerTag, 4),
		rules: rules,
	}
}

// User is the name of the n-th user of a company.
func User(n int) string { return fmt.Sprintf("user%05d@acme.example", n) }

func team(n int) string { return fmt.Sprintf("team-%04d", n) }
func dept(n int) string { return fmt.Sprintf("department-%03d", n) }
func tag(n int) string  { return fmt.Sprintf("service-%04d", n) }
func rule(n int) string {
	return fmt.Sprintf("%s-to-%s-%05d", []string{"deploy", "read", "operate"}[n%3], tag(n), n)
}

// members are the users of a team. Every tenth user is in a second one.
func (c company) members(t int) (users []int) {
	for u := t; u < c.users; u += c.teams {
		users = append(users, u)
	}
	for u := range c.users {
		if u%10 == 3 && u%c.teams != t && (u*7+11)%c.teams == t {
			users = append(users, u)
		}
	}
	return users
}

// rule is where the n-th rule is from, where to, and on which ports. Every
// fiftieth is from a department.
func (c company) rule(n int) (from string, to int, ports []string) {
	from = team(n * 13 % c.teams)
	if n%50 == 17 {
		from = dept(n % c.depts)
	}
	ports = [][]string{
		{"service:web"},
		{"tcp/22", "icmp"},
		{fmt.Sprintf("tcp/%d", 5000+n%300)},
		{"tcp/8000-8100", "udp/8000-8100"},
	}[n%4]
	return from, n % c.tags, ports
}

// ports of a rule that a test may ask for.
func asked(ports []string) []string {
	if ports[0] == "service:web" {
		return []string{"tcp/443"}
	}
	return ports
}

// Company is a policy of so many users, groups and rules, with so many assertions
// in its tests. Half of the assertions say what is allowed, four in ten what is
// denied, and one in ten who alone has access.
func Company(users, groups, rules, assertions int) fstest.MapFS {
	c := newCompany(users, groups, rules)
	fsys := fstest.MapFS{}
	add := func(name, text string) {
		fsys[name] = &fstest.MapFile{Data: []byte("package network\n\n" + text), Mode: 0o644}
	}
	add("network.cue", `network: {name: "acme", domain: "acme.mesh"}
admins: ["group:`+dept(0)+`"]

services: {
	http: ["tcp/80"]
	https: ["tcp/443"]
	web: ["service:http", "service:https"]
}
`)
	c.groupFiles(add)
	c.tagFile(add)
	c.ruleFiles(add)
	c.testFiles(add, assertions)
	return fsys
}

func (c company) groupFiles(add func(name, text string)) {
	var b strings.Builder
	b.WriteString("groups: {\n")
	for d := range c.depts {
		fmt.Fprintf(&b, "\t%q: [", dept(d))
		for t := d; t < c.teams; t += c.depts {
			fmt.Fprintf(&b, "\"group:%s\", ", team(t))
		}
		b.WriteString("]\n")
	}
	b.WriteString("}\n")
	add("groups/departments.cue", b.String())
	for first := 0; first < c.teams; first += teamsInFile {
		b.Reset()
		b.WriteString("groups: {\n")
		for t := first; t < min(first+teamsInFile, c.teams); t++ {
			fmt.Fprintf(&b, "\t%q: [\n", team(t))
			for _, u := range c.members(t) {
				if u%100 == 7 {
					fmt.Fprintf(&b, "\t\t{member: %q, until: \"2036-12-31T18:00:00Z\"},\n", User(u))
				} else {
					fmt.Fprintf(&b, "\t\t%q,\n", User(u))
				}
			}
			b.WriteString("\t]\n")
		}
		b.WriteString("}\n")
		add(fmt.Sprintf("groups/%03d.cue", first/teamsInFile), b.String())
	}
}

func (c company) tagFile(add func(name, text string)) {
	var b strings.Builder
	b.WriteString("tags: {\n")
	for t := range c.tags {
		fmt.Fprintf(&b, "\t%q: owners: [\"group:%s\"]\n", tag(t), team(t%c.teams))
	}
	b.WriteString("}\n")
	add("tags.cue", b.String())
}

func (c company) ruleFiles(add func(name, text string)) {
	var b strings.Builder
	for first := 0; first < c.rules; first += rulesInFile {
		b.Reset()
		b.WriteString("rules: {\n")
		for n := first; n < min(first+rulesInFile, c.rules); n++ {
			from, to, ports := c.rule(n)
			fmt.Fprintf(&b, "\t%q: {\n\t\tfrom: [\"group:%s\"]\n\t\tto: [\"tag:%s\"]\n\t\tallow: [%s]\n", rule(n), from, tag(to), quoted(ports))
			if n%20 == 5 {
				b.WriteString("\t\tuntil: \"2036-06-30T00:00:00Z\"\n")
			}
			fmt.Fprintf(&b, "\t\twhy: \"OPS-%d\"\n\t}\n", 1000+n)
		}
		b.WriteString("}\n")
		add(fmt.Sprintf("rules/%03d.cue", first/rulesInFile), b.String())
	}
}

func (c company) testFiles(add func(name, text string), assertions int) {
	sources := make([][]string, c.tags) // of each tag, the groups that rules let in
	teamsOf := make([][]int, c.users)
	for t := range c.teams {
		for _, u := range c.members(t) {
			teamsOf[u] = append(teamsOf[u], t)
		}
	}
	for n := range c.rules {
		from, to, _ := c.rule(n)
		if !slices.Contains(sources[to], from) {
			sources[to] = append(sources[to], from)
		}
	}
	// shut reports whether nobody of team t reaches the tag.
	shut := func(t, to int) bool {
		for _, u := range c.members(t) {
			for _, of := range teamsOf[u] {
				if slices.Contains(sources[to], team(of)) || slices.Contains(sources[to], dept(of%c.depts)) {
					return false
				}
			}
		}
		return true
	}
	var b strings.Builder
	for test := 0; test*assertionsPer < assertions; test++ {
		if test%testsInFile == 0 {
			b.Reset()
			b.WriteString("tests: {\n")
		}
		var allow, deny, only strings.Builder
		for k := test * assertionsPer; k < min((test+1)*assertionsPer, assertions); k++ {
			n := k * 37 % max(c.rules, 1)
			from, to, ports := c.rule(n)
			switch {
			case k%10 < 5 && c.rules > 0:
				fmt.Fprintf(&allow, "\t\t\t{from: \"group:%s\", to: \"tag:%s\", on: [%s]},\n", from, tag(to), quoted(asked(ports)))
			case k%10 < 9 || len(sources[to]) == 0:
				t, far := k%c.teams, (to+c.tags/2)%c.tags
				for tries := 0; !shut(t, far) && tries < c.tags; tries++ {
					far = (far + 1) % c.tags
				}
				if !shut(t, far) { // it reaches everything: nobody reaches people's own nodes
					fmt.Fprintf(&deny, "\t\t\t{from: \"tag:%s\", to: \"group:%s\"},\n", tag(far), team(t))
				} else {
					fmt.Fprintf(&deny, "\t\t\t{from: \"group:%s\", to: \"tag:%s\"},\n", team(t), tag(far))
				}
			default:
				fmt.Fprintf(&only, "\t\t\t{from: [%s], to: \"tag:%s\"},\n", quoted(prefixed("group:", sources[to])), tag(to))
			}
		}
		fmt.Fprintf(&b, "\t\"assertions %05d\": {\n", test)
		for _, part := range []struct {
			name string
			text *strings.Builder
		}{{"allow", &allow}, {"deny", &deny}, {"only", &only}} {
			if part.text.Len() > 0 {
				fmt.Fprintf(&b, "\t\t%s: [\n%s\t\t]\n", part.name, part.text)
			}
		}
		b.WriteString("\t}\n")
		if test%testsInFile == testsInFile-1 || (test+1)*assertionsPer >= assertions {
			b.WriteString("}\n")
			add(fmt.Sprintf("tests/%03d.cue", test/testsInFile), b.String())
		}
	}
}

func prefixed(prefix string, names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = prefix + n
	}
	return out
}

func quoted(texts []string) string {
	var b strings.Builder
	for i, s := range texts {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", s)
	}
	return b.String()
}

// A Node is one entry of an inventory.
type Node struct {
	Name string   `json:"name"`
	User string   `json:"user,omitempty"`
	Tags []string `json:"tags,omitempty"`
}

// Inventory are so many nodes of the company with so many users and rules: nine
// of ten are people's, the others are servers.
func Inventory(nodes, users, rules int) []Node {
	c := newCompany(users, 1, rules)
	out := make([]Node, nodes)
	for n := range out {
		if n%10 == 9 {
			out[n] = Node{Name: fmt.Sprintf("server-%06d", n), Tags: []string{tag(n / 10 % c.tags)}}
		} else {
			out[n] = Node{Name: fmt.Sprintf("laptop-%06d", n), User: User((n - n/10) % max(c.users, 1))}
		}
	}
	return out
}

// InventoryJSON is an Inventory as the programs read it.
func InventoryJSON(nodes, users, rules int) []byte {
	b, err := json.Marshal(struct {
		Nodes []Node `json:"nodes"`
	}{Inventory(nodes, users, rules)})
	if err != nil {
		panic("policytest: " + err.Error()) // texts and lists of texts
	}
	return b
}
