# METADATA
# title: Nobody locks the administrators out
# description: |
#   Administrators stay, and stay able to reach the servers of the control plane
#   whatever their devices report and at any hour; a relay and a coordinator that
#   nodes know already stay where they are.
#   Configure: fewest, control and port.
package guard.lock_out

# So many people administer the network at least.
fewest := 2

# The servers of the control plane, and how administrators get there.
control := "tag:control"

port := "tcp/22"

checked := count(input.network.admins) + count(input.network.rules)

deny contains {"msg": msg} if {
	count(people) < fewest
	msg := sprintf("%d people administer the network, want at least %d", [count(people), fewest])
}

deny contains {"msg": msg} if {
	some tag in input.network.tags
	concat(":", ["tag", tag.name]) == control
	not way_in
	msg := sprintf("no rule lets all administrators reach %s on %s at any time", [control, port])
}

deny contains {"msg": msg} if {
	some change in input.diff.lost
	change.to in {control, "*", "autogroup:tagged"}
	not object.get(change, "kept", false)
	some person in change.people
	person in people
	port in change.ports
	msg := sprintf("%s administers the network and loses %s to %s", [person, port, control])
}

deny contains {"msg": msg, "place": change.place} if {
	some kind, entries in {"relay": input.network.relays, "coordinator": input.network.network.coordinators}
	some change in input.diff.admission
	change.kind == kind
	change.change in {"removed", "changed"}
	new := {other.name | some other in input.diff.admission; other.kind == kind; other.change in {"added", "changed"}}
	count({e | some e in entries; not e.name in new; not e.addr in new}) == 0
	msg := sprintf("no %s stays as nodes know it; change one after another", [kind])
}

# The people who administer the network: groups may hold groups.
people := {p |
	some ref in input.network.admins
	some p in graph.reachable(edges, {ref.selector})
	contains(p, "@")
	not ends(ref.selector, p)
}

# A membership that ends is none to rely on.
ends(selector, person) if {
	selector != person
	some g in input.network.groups
	some m in g.members
	m.selector == person
	m.until
	sprintf("group:%s", [g.name]) in graph.reachable(edges, {selector})
}

way_in if {
	some rule in input.network.rules
	not rule.until
	count(rule.hours) + count(rule.posture) == 0
	every admin in input.network.admins {
		some from in rule.from
		from.selector in {admin.selector, "*", "autogroup:member"}
		count(from.except) == 0
	}
	some to in rule.to
	to.selector in {control, "autogroup:tagged", "*"}
	count(to.except) == 0
	some open in rule.ports
	open in {port, "*"}
}

# The graph of groups and their members.
edges := object.union(
	{m.selector: set() | some g in input.network.groups; some m in g.members},
	{sprintf("group:%s", [g.name]): {m.selector | some m in g.members} | some g in input.network.groups},
)
