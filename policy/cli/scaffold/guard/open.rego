# No rule opens every port to everybody.
package guard.open

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some from in rule.from
	from.selector == "*"
	some allow in rule.allow
	allow.text == "*"
	msg := sprintf("rule %q opens every port to everybody", [rule.name])
}
