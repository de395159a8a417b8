package model

import "slices"

// unenforced are the constructs of the policy language that nothing in this
// version enforces. They are refused by name: a policy that is accepted is
// enforced whole. "*" stands for any one label.
var unenforced = []struct {
	path []string
	why  string
}{
	{[]string{"workload"}, "workload tokens are not accepted"},
	{[]string{"workloads"}, "workload tokens are not accepted"},
	{[]string{"dns"}, "there are no DNS settings"},
	{[]string{"network", "dns"}, "there are no DNS settings"},
	{[]string{"network", "prefix6"}, "IPv6 addresses follow from the identity key"},
	{[]string{"network", "minAgent"}, "agents of every version are served"},
	{[]string{"rules", "*", "via"}, "a rule does not choose among routers"},
	{[]string{"enrolment", "*", "count"}, "uses of an enrolment key are not counted"},
}

// misplaced are fields that people look for where they are not, and what to
// write instead.
var misplaced = []struct {
	path []string
	hint string
}{
	{[]string{"rules", "*", "except"}, `write from: {any: ["group:eng"], except: ["alice@acme.example"]}`},
	{[]string{"groups", "*", "*", "except"}, "a group does not subtract: a rule excepts, in from or to"},
	{[]string{"groups", "*", "except"}, "a group does not subtract: a rule excepts, in from or to"},
	{[]string{"rules", "*", "claims"}, `make a group of them: [{claim: {name: "groups", value: "eng"}}]`},
	{[]string{"claims"}, `a claim stands in a group: [{claim: {name: "groups", value: "eng"}}]`},
	{[]string{"generate"}, "rules are computed by Rego, in generate/"},
	{[]string{"guard"}, "guards are Rego, in guard/"},
	{[]string{"capabilities"}, "capabilities stand in a rule"},
	{[]string{"hours"}, "hours stand in a rule"},
	{[]string{"except"}, "a rule excepts, in from or to"},
	{[]string{"users"}, "users are written where they are meant, by e-mail address"},
	{[]string{"acls"}, "write rules"},
	{[]string{"grants"}, "write rules"},
	{[]string{"policies"}, "write rules"},
	{[]string{"tagOwners"}, `write tags: NAME: owners: ["group:it"]`},
	{[]string{"autoApprovers"}, `write routes: "10.20.0.0/16": via: ["tag:router"], and exit: via: ["tag:gateway"]`},
	{[]string{"ssh"}, "write a rule that allows tcp/22; who may be whom there is the server's to say"},
	{[]string{"rules", "*", "src"}, "write from"},
	{[]string{"rules", "*", "dst"}, "write to"},
	{[]string{"rules", "*", "ports"}, "write allow"},
	{[]string{"rules", "*", "proto"}, `write it with the port: allow: ["tcp/443"]`},
	{[]string{"rules", "*", "deny"}, "rules only allow; a test may say that something is denied"},
	{[]string{"rules", "*", "action"}, "rules only allow"},
	{[]string{"rules", "*", "expires"}, "write until"},
	{[]string{"rules", "*", "comment"}, "write why"},
	{[]string{"rules", "*", "description"}, "write why"},
	{[]string{"rules", "*", "schedule"}, "write hours"},
	{[]string{"rules", "*", "postures"}, "write posture"},
}

// notEnforced says why the construct at path is not enforced; empty when it is
// none of the policy language.
func notEnforced(path []string) string {
	for _, u := range unenforced {
		if at(path, u.path) {
			return u.why
		}
	}
	return ""
}

// instead is what to write instead of a field that is not where it was looked for.
func instead(path []string) string {
	for _, m := range misplaced {
		if at(path, m.path) {
			return m.hint
		}
	}
	return ""
}

// at reports whether path is the one that pattern names.
func at(path, pattern []string) bool {
	return slices.EqualFunc(path, pattern, func(label, p string) bool { return p == "*" || p == label })
}
