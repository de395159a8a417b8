# No rule opens every port of the accounting servers.
package guard.star

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some to in rule.to
	to.selector == "tag:accounting"
	some allow in rule.allow
	allow.text == "*"
	msg := sprintf("rule %q opens every port of tag:accounting", [rule.name])
}
