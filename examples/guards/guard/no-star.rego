# METADATA
# title: No star to sensitive servers
# description: |
#   No rule gives everybody access to servers that are sensitive, whether it names
#   their tag, a group that holds the tag, a node that bears it, or all servers.
#   Configure: sensitive and everybody.
package guard.no_star

# Tags of servers that only some may reach.
sensitive := {"tag:payroll", "tag:control"}

# Selectors that are too many.
everybody := {"*", "autogroup:member", "autogroup:tagged"}

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some from in rule.from
	from.selector in everybody
	some to in rule.to
	some tag in sensitive
	selects(to, tag)
	msg := sprintf("rule %q: from %s is everybody, and to %s reaches %s", [rule.name, from.selector, to.selector, tag])
}

selects(ref, tag) if {
	some selector in holders[tag]
	ref.selector == selector
	not excepted(ref, tag)
}

excepted(ref, tag) if {
	some exception in ref.except
	exception.selector == tag
}

# holders are the selectors that select what bears a tag.
holders[tag] := ({tag, "*", "autogroup:tagged"} | groups) | nodes if {
	some tag in sensitive
	groups := {group |
		some g in input.network.groups
		group := sprintf("group:%s", [g.name])
		tag in graph.reachable(edges, {group})
	}
	nodes := {sprintf("node:%s", [n.name]) |
		some n in input.network.nodes
		some ref in n.tags
		ref.selector == tag
	}
}

# The graph of groups and their members.
edges := object.union(
	{m.selector: set() | some g in input.network.groups; some m in g.members},
	{sprintf("group:%s", [g.name]): {m.selector | some m in g.members} | some g in input.network.groups},
)
