# METADATA
# title: Changes of guards need a second signature
# description: |
#   A guard that is added, removed or changed needs the approval of a team. The
#   guards of the revision before judge a change as well, so that it cannot remove
#   this one.
#   Configure: team.
package guard.guard_changes

# Who approves.
team := "group:it"

checked := count(input.network.rules)

require_approval contains {"team": team, "reason": sprintf("%s is %s", [change.name, change.change])} if {
	some change in input.diff.admission
	change.kind == "guard"
}
