# What a guard may say, and what it looks at.
package guard.language

# A guard says how many things it looked at; none is an error.
checked := count(input.network.rules)

# deny refuses the commit. The place is that of what it is about.
deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some name, value in rule.capabilities
	startswith(name, "acme.example/cap/deploy")
	some stage in value.stages
	stage == "production"
	msg := sprintf("rule %q lets people deploy to production: machines do", [rule.name])
}

# warn is for a person to look at. Lists are always there, empty where nothing is
# written.
warn contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	count(rule.posture) == 0
	msg := sprintf("rule %q does not ask what devices are like", [rule.name])
}

# require_approval asks somebody to sign. The difference says who gains what.
require_approval contains {"team": "group:engineering", "reason": reason} if {
	some change in input.diff.gained
	change.to == "tag:payroll"
	reason := sprintf("%s gains %s on %s", [change.from, change.to, concat(", ", change.ports)])
}
