package model

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// teamRoot is a network that lets a team give access to its servers, its database
// and a subnet.
const teamRoot = smallest + `
groups: ops: ["erin@acme.example"]
groups: "payments/oncall": ["ted@acme.example"]
tags: {payments: {}, ledger: {}}
hosts: {"payments/db": "10.20.0.5", erp: "10.30.0.1"}
routes: {"10.20.0.0/16": via: ["tag:payments"], "10.30.0.0/16": via: ["tag:payments"]}
teams: {
	payments: scope: ["tag:payments", "host:payments/db", "10.20.8.0/24"]
	search: scope: ["tag:ledger"]
}
rules: "ops": {from: ["group:ops"], to: ["tag:ledger"], allow: ["tcp/22"]}
`

// team loads the root with files of teams, and of the network where named so.
func team(texts map[string]string) (*Policy, error) {
	all := map[string]string{"network.cue": teamRoot}
	for name, text := range texts {
		if strings.HasSuffix(name, ".cue") {
			text = "package network\n\n" + text + "\n"
		}
		all[name] = text
	}
	return Load(files(all))
}

// to is a team's rule to the destination.
func to(destination string) string {
	return `rules: "r": {from: ["ted@acme.example"], to: [` + destination + `], allow: ["tcp/443"]}`
}

const mine = "teams/payments/a.cue"

func TestTeam(t *testing.T) {
	p, err := team(map[string]string{
		mine: `
groups: "payments/dba": ["ted@acme.example", {member: "group:ops", until: "2030-01-01T00:00:00Z"}]
hosts: "payments/replica": "10.20.8.9"
services: "payments/sql": ["tcp/5432"]
rules: {
	"payments-web": {from: ["group:ops"], to: ["tag:payments"], allow: ["tcp/443"]}
	"payments-db": {from: ["group:payments/dba"], to: ["host:payments/db", "host:payments/replica", "10.20.8.128/25"], allow: ["service:payments/sql"]}
	"payments-some": {from: ["*"], to: {any: ["tag:payments"], except: ["tag:ledger"]}, allow: ["icmp"]}
}`,
		"teams/payments/more/b.cue": `tests: "dba": allow: [{from: "group:payments/dba", to: "host:payments/db", on: ["tcp/5432"]}]`,
		"teams/search/a.cue":        `rules: find: {from: ["*"], to: {any: ["tag:ledger"], except: ["tag:payments", "group:ops"]}, allow: ["tcp/80"]}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range p.Rules {
		got[r.Name] = r.Team
	}
	want := map[string]string{"ops": "", "payments-web": "payments", "payments-db": "payments", "payments-some": "payments", "find": "search"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("teams of rules, want -, got +:\n%s", diff)
	}
}

// TestTeamEscapes tries to get out of a team's folder. Each is refused, at the
// place of what tries.
func TestTeamEscapes(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // place and message of one problem
	}{
		// what is not a team's to write
		{"another block", map[string]string{mine: `tags: mine: {}`}, `teams/payments/a.cue:3:1: "tags" is not for teams to write`},
		{"admins", map[string]string{mine: `admins: ["ted@acme.example"]`}, `teams/payments/a.cue:3:1: "admins" is not for teams to write`},
		{"network", map[string]string{mine: `network: literalAddresses: true`}, `teams/payments/a.cue:3:1: "network" is not for teams to write`},
		{"its own scope", map[string]string{mine: `teams: payments: scope: ["*"]`}, `teams/payments/a.cue:3:1: "teams" is not for teams to write`},
		{"a team of its own", map[string]string{mine: `teams: mine: scope: ["*"]`}, `teams/payments/a.cue:3:1: "teams" is not for teams to write`},
		{"routes", map[string]string{mine: `routes: "10.40.0.0/16": via: ["tag:payments"]`}, `teams/payments/a.cue:3:1: "routes" is not for teams to write`},
		{"enrolment", map[string]string{mine: `enrolment: x: {}`}, `teams/payments/a.cue:3:1: "enrolment" is not for teams to write`},
		{"revocation", map[string]string{mine: `revoked: {}`}, `teams/payments/a.cue:3:1: "revoked" is not for teams to write`},

		// names of others
		{"a group of the network", map[string]string{mine: `groups: admins2: ["ted@acme.example"]`}, `teams/payments/a.cue:3:9: group "admins2": the groups of team "payments" have names under "payments/"`},
		{"a group twice", map[string]string{mine: `groups: "payments/oncall": ["mallory@acme.example"]`}, `teams/payments/a.cue:3:9: groups."payments/oncall" is written twice`},
		{"a group of another team", map[string]string{mine: `groups: "search/x": []`}, `teams/payments/a.cue:3:9: group "search/x": the groups of team "payments" have names under "payments/"`},
		{"a name that begins like the team's", map[string]string{mine: `groups: "payments2/x": []`}, `teams/payments/a.cue:3:9: group "payments2/x": the groups`},
		{"the bare prefix", map[string]string{mine: `groups: "payments/": []`}, `teams/payments/a.cue:3:9: group "payments/": the groups`},
		{"an escaped name", map[string]string{mine: `groups: "payments\u002f\u002e\u002e/ops": []`}, `teams/payments/a.cue:3:9: group name "payments/../ops"`},
		{"a host of the network", map[string]string{mine: `hosts: erp: "10.20.8.1"`}, `teams/payments/a.cue:3:8: host "erp": the hosts of team`},
		{"a host of the scope", map[string]string{mine: `hosts: "payments/db": "10.30.0.1"`}, `teams/payments/a.cue:3:8: hosts."payments/db" is written twice`},
		{"a service", map[string]string{mine: `services: ssh: ["tcp/22"]`}, `teams/payments/a.cue:3:11: service "ssh": the services of team`},
		{"a rule of the network", map[string]string{mine: `rules: ops: until: "2026-01-01T00:00:00Z"`}, `teams/payments/a.cue:3:8: rules.ops is written twice`},
		{"capabilities for a rule of the network", map[string]string{mine: `rules: ops: capabilities: "x.example/admin": true`}, `rules.ops is written twice`},

		// CUE that reaches elsewhere
		{"a pattern", map[string]string{mine: `rules: [string]: until: "2026-01-01T00:00:00Z"`}, `teams/payments/a.cue:3:8: a pattern: the files of a team are plain data`},
		{"a pattern over blocks", map[string]string{mine: `[string]: {...}`}, `teams/payments/a.cue:3:1: a pattern: the`},
		{"a default for a rule", map[string]string{mine: `rules: r: from: *["*"] | [...string]`}, `teams/payments/a.cue:3:17: an operator: the`},
		{"a definition", map[string]string{mine: `#Rule: {until: string}`}, `teams/payments/a.cue:3:1: a hidden field or definition: the`},
		{"a hidden field", map[string]string{mine: `_web: ["*"]`, "b.cue": `_web: [...string]`}, `teams/payments/a.cue:3:1: a hidden field or definition: the`},
		{"a hidden field inside", map[string]string{mine: `rules: _x: {}`}, `teams/payments/a.cue:3:8: a hidden field or definition: the`},
		{"an embedding", map[string]string{mine: `{admins: ["ted@acme.example"]}`}, `teams/payments/a.cue:3:1: an embedding: the`},
		{"an embedding in a block", map[string]string{mine: `groups: {{"ops": ["ted@acme.example"]}}`}, `teams/payments/a.cue:3:10: an embedding: the`},
		{"a condition", map[string]string{mine: `if true {admins: ["ted@acme.example"]}`}, `teams/payments/a.cue:3:1: a comprehension: the`},
		{"a comprehension", map[string]string{mine: `groups: {for n in ["ops"] {(n): ["ted@acme.example"]}}`}, `teams/payments/a.cue:3:10: a comprehension: the`},
		{"a let", map[string]string{mine: `let x = ["*"]`}, `teams/payments/a.cue:3:1: a let clause: the`},
		{"an alias", map[string]string{mine: `X=groups: "payments/x": []`}, `: the files of a team are plain data`},
		{"a computed label", map[string]string{mine: `groups: "payments/\("x")": []`}, `teams/payments/a.cue:3:9: a computed text or value: the`},
		{"a dynamic label", map[string]string{mine: `groups: ("ops"): []`}, `teams/payments/a.cue:3:9: a computed text or value: the`},
		{"a reference", map[string]string{mine: `groups: "payments/x": groups.ops`}, `teams/payments/a.cue:3:23: a reference: the`},
		{"a text that refers", map[string]string{mine: `groups: "payments/x": ["x@\(network.domain)"]`}, `teams/payments/a.cue:3:24: a computed text or value: the`},
		{"an open list", map[string]string{mine: `groups: "payments/x": ["ted@acme.example", ...]`}, `: an ellipsis: the`},
		{"an open block", map[string]string{mine: `groups: {...}`}, `: an ellipsis: the`},
		{"an optional field", map[string]string{mine: `groups: "payments/x"?: []`}, `: a constraint: the`},
		{"a conjunction", map[string]string{mine: `rules: {} & {ops: until: "2026-01-01T00:00:00Z"}`}, `: an operator: the`},
		{"an import", map[string]string{mine: `import "list"`}, `imports are not allowed`},
		{"an attribute", map[string]string{mine: `groups: "payments/x": [] @if(x)`}, `attributes (`},

		// what the network's own files compute
		{"a computed rule's name", map[string]string{
			"b.cue": `rules: {for n in ["ledger"] {"open-\(n)": {from: ["group:ops"], to: ["tag:\(n)"], allow: ["tcp/1"]}}}`,
			mine:    `rules: "open-ledger": capabilities: "x.example/admin": true`,
		}, `teams/payments/a.cue:3:8: rules."open-ledger" is written by team "payments", and by the network's own files`},
		{"an open group", map[string]string{
			"b.cue": `groups: {for n in ["x"] {"payments/\(n)": ["erin@acme.example", ...string]}}`,
			mine:    `groups: "payments/x": ["erin@acme.example", "mallory@acme.example"]`,
		}, `teams/payments/a.cue:3:9: groups."payments/x" is written by team "payments", and by the network's own files`},
		{"a loop over groups", map[string]string{
			"b.cue": `rules: {for n, _ in groups {"all-\(n)": {from: ["group:\(n)"], to: ["tag:ledger"], allow: ["tcp/1"]}}}`,
			mine:    `groups: "payments/x": ["mallory@acme.example"]`,
		}, `rules."all-payments/x" is another with the files of teams`},
		{"a condition on a group", map[string]string{
			"b.cue": `if groups["payments/x"] != _|_ {admins: ["mallory@acme.example"]}`,
			mine:    `groups: "payments/x": ["mallory@acme.example"]`,
		}, `admins is another with the files of teams`},
		{"a condition that takes away", map[string]string{
			"b.cue": `if groups["payments/x"] == _|_ {groups: guard: ["erin@acme.example"]}`,
			mine:    `groups: "payments/x": ["mallory@acme.example"]`,
		}, `groups.guard is not there with the files of teams`},
		{"a reference to a team's", map[string]string{
			"b.cue": `groups: all: groups["payments/x"]`,
			mine:    `groups: "payments/x": ["mallory@acme.example"]`,
		}, `b.cue:3:`},

		// destinations
		{"everything", map[string]string{mine: to(`"*"`)}, `teams/payments/a.cue:3:47: rule "r": * is not in the scope of team "payments": tag:payments, host:payments/db, 10.20.8.0/24`},
		{"another tag", map[string]string{mine: to(`"tag:payments", "tag:ledger"`)}, `rule "r": tag:ledger is not in the scope`},
		{"all tagged nodes", map[string]string{mine: to(`"autogroup:tagged"`)}, `rule "r": autogroup:tagged is not`},
		{"the internet", map[string]string{mine: to(`"autogroup:internet"`)}, `rule "r": autogroup:internet is not`},
		{"people's own nodes", map[string]string{mine: to(`"autogroup:self"`)}, `rule "r": autogroup:self is not`},
		{"a group of its own", map[string]string{mine: `groups: "payments/x": ["erin@acme.example"]` + "\n" + to(`"group:payments/x"`)}, `rule "r": group:payments/x is not`},
		{"a host of its own", map[string]string{mine: `hosts: "payments/x": "10.30.0.1"` + "\n" + to(`"host:payments/x"`)}, `rule "r": host:payments/x is not`},
		{"a wider prefix", map[string]string{mine: to(`"10.20.0.0/16"`)}, `rule "r": 10.20.0.0/16 is not`},
		{"all addresses", map[string]string{mine: to(`"0.0.0.0/0"`)}, `rule "r": 0.0.0.0/0 is not`},
		{"the address beside", map[string]string{mine: to(`"10.20.9.0"`)}, `rule "r": 10.20.9.0 is not`},
		{"an exception that widens", map[string]string{mine: to(`{any: ["tag:ledger"], except: ["tag:payments"]}`)}, `rule "r": tag:ledger except tag:payments is not`},
		{"a node behind all subnets", map[string]string{
			"b.cue":           `teams: net: scope: ["0.0.0.0/0"]` + "\n" + `network: literalAddresses: true`,
			"teams/net/a.cue": to(`"100.64.0.7"`),
		}, `rule "r": 100.64.0.7 is not in the scope of team "net": 0.0.0.0/0`},
		{"a node behind all IPv6 subnets", map[string]string{
			"b.cue":           `teams: net: scope: ["::/0"]` + "\n" + `network: literalAddresses: true`,
			"teams/net/a.cue": to(`"fd00::7"`),
		}, `rule "r": fd00::7 is not in the scope of team "net": ::/0`},

		// scopes that a team defines
		{"a group in a scope", map[string]string{
			"b.cue":         `teams: x: scope: ["group:x/all"]`,
			"teams/x/a.cue": `groups: "x/all": ["erin@acme.example"]`,
		}, `b.cue:3:19: team "x": group:x/all is defined by a team, and a scope by none`},
		{"a group in a group in a scope", map[string]string{
			"b.cue":         `teams: x: scope: ["group:outer"]` + "\n" + `groups: outer: ["group:x/all"]`,
			"teams/x/a.cue": `groups: "x/all": ["erin@acme.example"]`,
		}, `b.cue:3:19: team "x": group:x/all is defined by a team, and a scope by none`},
		{"a host in a scope", map[string]string{
			"b.cue":         `teams: x: scope: ["host:x/db"]`,
			"teams/x/a.cue": `hosts: "x/db": "10.30.0.1"`,
		}, `b.cue:3:19: team "x": host:x/db is defined by a team`},

		// folders
		{"an unknown team", map[string]string{"teams/paymnts/a.cue": `groups: {}`}, `teams/paymnts/a.cue: unknown team "paymnts"; did you mean "payments"?`},
		{"a file of no team", map[string]string{"teams/a.cue": `groups: {}`}, `teams/a.cue: this file belongs to no team`},
		{"another case", map[string]string{"Teams/payments/a.cue": `admins: ["ted@acme.example"]`}, `Teams/payments/a.cue: the folder is written teams`},
		{"JSON", map[string]string{"teams/payments/a.json": `{"admins": ["ted@acme.example"]}`}, `teams/payments/a.json: a team writes CUE only`},
		{"YAML", map[string]string{"teams/payments/data/a.yaml": `admins: [ted@acme.example]`}, `teams/payments/data/a.yaml: a team writes CUE only`},
		{"a guard", map[string]string{"teams/payments/guard/a.rego": `package guard.a`}, `teams/payments/guard/a.rego: a team writes CUE only`},
		{"computed rules", map[string]string{"teams/payments/generate/a.rego": `package generate.a`}, `teams/payments/generate/a.rego: a team writes CUE only`},
		{"a team of two folders", map[string]string{"b.cue": `teams: "payments/eu": scope: ["tag:payments"]`}, `b.cue:3:8: team "payments/eu": a team is one folder in teams/`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := team(c.files)
			var ps Problems
			if p != nil || !errors.As(err, &ps) {
				t.Fatalf("Load = %v, %v; want problems", p, err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", err, c.want)
			}
		})
	}
}

// TestTeamBesideCUE holds that the network's own files may be CUE of any kind
// beside a team's, and may constrain and complete what the team writes.
func TestTeamBesideCUE(t *testing.T) {
	texts := map[string]string{
		"b.cue": `
rules: [string]: why: *"nobody says" | string
_tags: ["ledger", "payments"]
rules: {for n in _tags {"ops-\(n)": {from: ["group:ops"], to: ["tag:\(n)"], allow: ["tcp/9"]}}}`,
		mine: to(`"tag:payments"`),
	}
	p, err := team(texts)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range p.Rules {
		got[r.Name] = r.Team + ":" + r.Why
	}
	want := map[string]string{"ops": ":nobody says", "ops-ledger": ":nobody says", "ops-payments": ":nobody says", "r": "payments:nobody says"}
	if !maps.Equal(got, want) {
		t.Errorf("rules: got %v, want %v", got, want)
	}
	texts["b.cue"] += "\nrules: [string]: why: =~\"^OPS-\""
	if _, err := team(texts); err == nil {
		t.Error("a team's rule without a ticket, which the network asks of all rules, is accepted")
	}
}
