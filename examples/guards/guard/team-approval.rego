# METADATA
# title: A team approves what reaches its servers
# description: |
#   Access to a team's scope that begins needs the approval of those who lead the
#   team, whoever wrote the rule, and however it names what is in the scope.
#   Configure: leads.
package guard.team_approval

# Who approves for each team; a team that is not here approves nothing.
leads := {"payments": "group:payments-leads"}

checked := count(input.network.rules) + count(input.diff.gained)

require_approval contains {"team": leads[team.name], "reason": reason, "place": rule.place} if {
	some team in input.network.teams
	leads[team.name]
	some change in input.diff.gained
	some s in team.scope
	covers(selected(change.to), s.selector)
	some rule in input.network.rules
	rule.name in change.rules
	reason := sprintf("rule %q gives %s access to %s of team %s", [rule.name, change.from, what(change.to, s.selector), team.name])
}

# What a change selects, without what it leaves out: that may still be some of it.
selected(to) := split(to, " except ")[0]

# A team's scope is named where the change does not.
what(to, scope) := to if to == scope

what(to, scope) := sprintf("%s, and so to %s", [to, scope]) if to != scope

# Whether what a change selects may be in a scope, as far as the policy tells.
covers(to, scope) if to == scope

covers("*", _)

covers("autogroup:tagged", scope) if startswith(scope, "tag:")

covers("autogroup:member", scope) if person(scope)

covers("autogroup:self", scope) if person(scope)

covers(to, scope) if {
	some one in graph.reachable(edges, {to})
	one in graph.reachable(edges, {scope})
}

covers(to, scope) if net.cidr_intersects(prefix(to), prefix(scope))

person(scope) if contains(scope, "@")

person(scope) if startswith(scope, "group:")

# The graph of groups and their members, and of nodes and what they are.
edges[group] := {m.selector | some m in g.members} if {
	some g in input.network.groups
	group := sprintf("group:%s", [g.name])
}

edges[node] := {t.selector | some t in n.tags} | {user | user := n.user} if {
	some n in input.network.nodes
	node := sprintf("node:%s", [n.name])
}

edges[member] := set() if {
	some g in input.network.groups
	some m in g.members
	member := m.selector
	not startswith(member, "group:")
}

edges[tag] := set() if {
	some n in input.network.nodes
	some t in n.tags
	tag := t.selector
}

edges[user] := set() if {
	some n in input.network.nodes
	user := n.user
}

# The addresses of a host, or of what is written as addresses.
prefix(selector) := host.prefix if {
	some host in input.network.hosts
	selector == sprintf("host:%s", [host.name])
}

prefix(selector) := selector if net.cidr_is_valid(selector)

prefix(selector) := sprintf("%s/32", [selector]) if {
	not contains(selector, ":")
	net.cidr_is_valid(sprintf("%s/32", [selector]))
}

prefix(selector) := sprintf("%s/128", [selector]) if {
	contains(selector, ":")
	net.cidr_is_valid(sprintf("%s/128", [selector]))
}
