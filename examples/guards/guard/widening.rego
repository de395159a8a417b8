# METADATA
# title: Many people at once need a second signature
# description: |
#   A change of the policy by which more than a few people gain access needs the
#   approval of a team that watches over it.
#   Configure: most and team.
package guard.widening

# So many people may gain access without asking.
most := 2

# Who approves more.
team := "group:it"

checked := count(input.network.rules) + count(input.diff.gained)

gaining := {person |
	some change in input.diff.gained
	object.get(change, "by", "policy") == "policy"
	some person in change.people
}

require_approval contains {"team": team, "reason": reason} if {
	count(gaining) > most
	reason := sprintf("%d people gain access; more than %d need approval", [count(gaining), most])
}
