# METADATA
# title: Many people at once need a second signature
# description: |
#   A change of the policy by which more than a few people gain access needs the
#   approval of a team that watches over it. Sources that do not say who is in them,
#   as *, autogroup:member and groups of an identity provider's claims, are many.
#   Configure: most and team.
package guard.widening

# So many people may gain access without asking.
most := 2

# Who approves more.
team := "group:it"

checked := count(input.network.rules) + count(input.diff.gained)

gained contains change if {
	some change in input.diff.gained
	object.get(change, "by", "policy") == "policy"
}

gaining := {person |
	some change in gained
	some person in change.people
}

# Sources that nobody has counted.
unbounded := {from |
	some change in gained
	from := split(change.from, " except ")[0]
	uncounted(from)
}

uncounted(from) if from in {"*", "autogroup:member"}

uncounted(from) if {
	some member in graph.reachable(edges, {from})
	startswith(member, "claim:")
}

# The graph of groups and their members.
edges[group] := {m.selector | some m in g.members} if {
	some g in input.network.groups
	group := sprintf("group:%s", [g.name])
}

edges[m.selector] := set() if {
	some g in input.network.groups
	some m in g.members
	not startswith(m.selector, "group:")
}

require_approval contains {"team": team, "reason": reason} if {
	count(unbounded) == 0
	count(gaining) > most
	reason := sprintf("%d people gain access; more than %d need approval", [count(gaining), most])
}

require_approval contains {"team": team, "reason": reason} if {
	some from in unbounded
	reason := sprintf("everybody in %s gains access, however many; more than %d need approval", [from, most])
}
