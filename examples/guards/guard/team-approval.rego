# METADATA
# title: A team approves what reaches its servers
# description: |
#   Access to a team's scope that begins needs the approval of those who lead the
#   team, whoever wrote the rule.
#   Configure: leads.
package guard.team_approval

# Who approves for each team; a team that is not here approves nothing.
leads := {"payments": "group:payments-leads"}

checked := count(input.network.rules) + count(input.diff.gained)

require_approval contains {"team": leads[team.name], "reason": reason, "place": rule.place} if {
	some team in input.network.teams
	leads[team.name]
	scope := {s.selector | some s in team.scope}
	some change in input.diff.gained
	change.to in scope
	some rule in input.network.rules
	rule.name in change.rules
	reason := sprintf("rule %q gives %s access to %s of team %s", [rule.name, change.from, change.to, team.name])
}
