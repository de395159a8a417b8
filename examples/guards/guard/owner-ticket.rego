# METADATA
# title: Every rule has an owner and a ticket
# description: |
#   Every rule says who answers for it, and begins its "why" with a ticket.
#   Configure: ticket.
package guard.owner_ticket

# How "why" begins.
ticket := `^[A-Z]+-[0-9]+\b`

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	not rule.owner
	msg := sprintf("rule %q has no owner: write owner", [rule.name])
}

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	not regex.match(ticket, object.get(rule, "why", ""))
	msg := sprintf("rule %q has no ticket: begin why with one, as in \"OPS-7: …\"", [rule.name])
}
