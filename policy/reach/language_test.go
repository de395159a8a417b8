package reach_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/policy/reach"
)

// whole uses all that a rule can say; each line has one name.
const whole = `package network

network: {name: "acme", domain: "acme.mesh", prefix4: "100.64.0.0/10"}
groups: {
	staff: [
		"alice@acme.example",
		"bob@acme.example",
		{member: "carol@acme.example", until: "2026-06-30T00:00:00Z"},
	]
	leavers: [
		"bob@acme.example",
	]
}
tags: {ledger: {}, router: {}, gate: {}}
hosts: erp: "10.20.0.5"
hosts: lost: "10.99.0.0/16"
routes: "10.20.0.0/16": via: ["tag:router"]
exit: via: [
	"tag:gate",
]
postures: managed: {os: ["macos", "linux"], osVersion: ">=14"}
rules: {
	"a-office": {
		from: {any: ["group:staff"], except: [
			"group:leavers",
		]}
		to: ["tag:ledger"]
		allow: ["tcp/443"]
		hours: [{days: ["mon-fri"], from: "09:00", to: "17:00", zone: "Europe/Berlin"}]
	}
	"b-erp": {
		from: ["group:staff"]
		to: ["host:erp"]
		allow: ["tcp/1433"]
		posture: ["managed"]
	}
	"c-lost": {
		from: ["group:staff"]
		to: ["host:lost"]
		allow: ["tcp/22"]
	}
	"d-web": {
		from: ["group:staff"]
		to: ["autogroup:internet"]
		allow: ["tcp/80"]
	}
	"e-back": {
		from: ["10.20.7.0/24"]
		to: ["tag:ledger"]
		allow: ["udp/514"]
	}
}
`

// TestExplainTheWholeLanguage asks for every construct once where it allows and
// once where it is the one thing that is missing.
func TestExplainTheWholeLanguage(t *testing.T) {
	p, c := compiled(t, whole)
	monday := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		name, from, to, port string
		at                   time.Time
		reports              map[string]string
		inv                  *reach.Inventory
		chain, misses        []string
	}{
		{name: "in hours", from: "alice@acme.example", to: "tag:ledger", port: "tcp/443", at: monday, chain: []string{
			`23 rule "a-office"`, `24 from group:staff except group:leavers`, `6 alice@acme.example is in group:staff`,
			`27 to tag:ledger`, `28 allows tcp/443`, `23 at mon-fri 09:00-17:00 Europe/Berlin`}},
		{name: "out of hours", from: "alice@acme.example", to: "tag:ledger", port: "tcp/443", at: monday.Add(12 * time.Hour),
			misses: []string{`hours 23 "a-office" holds mon-fri 09:00-17:00 Europe/Berlin; asked about mon 23:00 Europe/Berlin`}},
		{name: "what leads elsewhere is not near a node", from: "alice@acme.example", to: "tag:ledger", port: "tcp/80", at: monday,
			misses: []string{`port 23 "a-office" is for tcp/443`}},
		{name: "excepted", from: "bob@acme.example", to: "tag:ledger", port: "tcp/443", at: monday, misses: []string{
			`except 23 "a-office" excepts group:leavers (25 except group:leavers, 11 bob@acme.example is in group:leavers)`}},
		{name: "a membership that ended", from: "carol@acme.example", to: "tag:ledger", port: "tcp/443", at: monday, misses: []string{
			`source 23 "a-office" is for group:staff except group:leavers (8 carol@acme.example is in group:staff until 2026-06-30 00:00 UTC)`}},
		{name: "posture met", from: "alice@acme.example", to: "host:erp", port: "tcp/1433", at: monday, reports: map[string]string{"os": "macos", "osVersion": "14.2"}, chain: []string{
			`31 rule "b-erp"`, `32 from group:staff`, `6 alice@acme.example is in group:staff`, `33 to host:erp`, `15 host:erp is 10.20.0.5`,
			`17 10.20.0.0/16 is behind tag:router`, `34 allows tcp/1433`, `35 asks for posture managed`,
			`21 posture managed: os in linux, macos and osVersion >= 14`}},
		{name: "posture not met", from: "alice@acme.example", to: "10.20.0.5", port: "tcp/1433", at: monday, reports: map[string]string{"os": "windows"}, misses: []string{
			`posture 31 "b-erp" asks for posture managed; alice@acme.example reports os windows (21 posture managed: os in linux, macos and osVersion >= 14)`}},
		{name: "another address behind the route", from: "alice@acme.example", to: "10.20.0.6", port: "tcp/1433", at: monday,
			reports: map[string]string{"os": "linux", "osVersion": "15"}, misses: []string{`destination 31 "b-erp" is to host:erp`}},
		{name: "no route", from: "alice@acme.example", to: "host:lost", port: "tcp/22", at: monday,
			misses: []string{`route 37 "c-lost" is for it, but no route to 10.99.0.0 is approved`}},
		{name: "no node of the inventory forwards", from: "alice@acme.example", to: "host:erp", port: "tcp/1433", at: monday,
			reports: map[string]string{"os": "linux", "osVersion": "15"}, inv: &reach.Inventory{Nodes: []reach.Admitted{{Name: "r1", Tags: []string{"router"}}}},
			misses: []string{`route 31 "b-erp" is for it, but no node of the inventory has an approved route to 10.20.0.5`}},
		{name: "the internet", from: "alice@acme.example", to: "autogroup:internet", port: "tcp/80", at: monday, chain: []string{
			`42 rule "d-web"`, `43 from group:staff`, `6 alice@acme.example is in group:staff`, `44 to autogroup:internet`,
			`18 the internet is behind tag:gate`, `45 allows tcp/80`}},
		{name: "an address of the internet", from: "alice@acme.example", to: "1.1.1.1", port: "tcp/80", at: monday, chain: []string{
			`42 rule "d-web"`, `43 from group:staff`, `6 alice@acme.example is in group:staff`, `44 to autogroup:internet`,
			`18 the internet is behind tag:gate`, `45 allows tcp/80`}},
		{name: "from behind a route", from: "10.20.7.9", to: "tag:ledger", port: "udp/514", at: monday, chain: []string{
			`47 rule "e-back"`, `48 from 10.20.7.0/24`, `17 10.20.0.0/16 is behind tag:router`, `49 to tag:ledger`, `50 allows udp/514`}},
		{name: "the router is not what is behind it", from: "tag:router", to: "tag:ledger", port: "udp/514", at: monday,
			misses: []string{`source 47 "e-back" is for 10.20.7.0/24`}},
	} {
		t.Run(x.name, func(t *testing.T) {
			e := reach.NewExplainer(p, c, x.inv)
			from, to := e.Parties(sel(x.from), x.at), e.Parties(sel(x.to), x.at)
			if len(from) == 0 || len(to) == 0 {
				t.Fatalf("parties: got %d and %d, want some", len(from), len(to))
			}
			from[0].Reports = x.reports
			port, err := acl.ParsePorts(x.port)
			if err != nil {
				t.Fatal(err)
			}
			w := e.Explain(from[0], to[0], acl.Target{Proto: port.Proto, Port: port.First}, x.at)
			if want := x.chain != nil; w.Allowed != want {
				t.Errorf("allowed: got %t, want %t", w.Allowed, want)
			}
			var misses []string
			for _, m := range w.Misses {
				text := fmt.Sprintf("%s %d %q %s", m.Lacks, m.Place.Line, m.Rule, m.Text)
				if len(m.Steps) > 0 {
					text += " (" + strings.Join(steps(m.Steps), ", ") + ")"
				}
				misses = append(misses, text)
			}
			if d := cmp.Diff(x.chain, steps(w.Chain)); d != "" {
				t.Errorf("chain (-want +got):\n%s", d)
			}
			if d := cmp.Diff(x.misses, misses); d != "" {
				t.Errorf("misses (-want +got):\n%s", d)
			}
		})
	}
}
