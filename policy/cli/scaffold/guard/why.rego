# Every rule says why it is there.
package guard.why

checked := count(input.network.rules)

warn contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	not rule.why
	msg := sprintf("rule %q does not say why it is there", [rule.name])
}
