# METADATA
# title: What contractors may ends
# description: |
#   A rule for contractors ends, and a rule that is new or changed ends within some
#   days of the commit. A contractor's own membership may end instead.
#   They are among everybody (autogroup:member, *), too, so that such a rule ends,
#   or leaves their group out, or goes to what everybody may reach.
#   Configure: contractors, days and open.
package guard.contractors

# The group whose members come and go.
contractors := "group:contractors"

# What they gain ends after so many days at most.
days := 90

# What they may reach without end, as everybody may.
open := {"tag:web"}

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some from in rule.from
	from.selector in lasting
	not rule.until
	msg := sprintf("rule %q gives %s access without end: write until", [rule.name, from.selector])
}

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some from in rule.from
	among(rule, from)
	not rule.until
	msg := sprintf("rule %q gives %s access without end, contractors among them: write until, or except %s", [rule.name, from.selector, contractors])
}

deny contains {"msg": msg, "place": rule.place} if {
	some change in input.diff.gained
	some person in change.people
	person in people
	some rule in input.network.rules
	rule.name in change.rules
	some from in rule.from
	named(rule, from)
	late(change)
	msg := sprintf("rule %q gives %s access for more than %d days", [rule.name, person, days])
}

named(_, from) if from.selector in (groups | people)

named(rule, from) if among(rule, from)

# Contractors are among those whom a rule is for, and it goes to more than everybody
# may reach.
among(rule, from) if {
	from.selector in {"autogroup:member", "*"}
	some member in within
	not startswith(member, "group:")
	not left_out(from)
	some to in rule.to
	not to.selector in open
}

left_out(from) if {
	some x in from.except
	contractors in graph.reachable(edges, {x.selector})
}

# What does not end at all is told above.
late(change) if {
	until := time.parse_rfc3339_ns(change.until)
	committed := time.parse_rfc3339_ns(input.commit.when)
	until > time.add_date(committed, 0, 0, days)
}

# The group, those that hold it, and those in it.
groups := {group |
	some g in input.network.groups
	group := sprintf("group:%s", [g.name])
	contractors in graph.reachable(edges, {group})
} | {inner | some inner in within; startswith(inner, "group:")}

people := {person | some person in within; contains(person, "@")}

within := graph.reachable(edges, {contractors})

# Selectors that give access for longer than a membership: people by themselves,
# and the groups if somebody is in them without end.
lasting := people | {group | some group in groups; endless}

endless if {
	some g in input.network.groups
	sprintf("group:%s", [g.name]) in within
	some m in g.members
	not m.until
	not startswith(m.selector, "group:")
}

# The graph of groups and their members.
edges := object.union(
	{m.selector: set() | some g in input.network.groups; some m in g.members},
	{sprintf("group:%s", [g.name]): {m.selector | some m in g.members} | some g in input.network.groups},
)
