package guard.contractors_test

import data.guard.contractors

groups := [
	{"name": "contractors", "members": [{"selector": "grace@partner.example", "until": "2027-01-31T00:00:00Z"}, {"selector": "group:partner"}]},
	{"name": "partner", "members": [{"selector": "heidi@partner.example", "until": "2027-01-31T00:00:00Z"}]},
	{"name": "helpers", "members": [{"selector": "group:contractors"}]},
	{"name": "it", "members": [{"selector": "erin@acme.example"}]},
]

# without is the groups as they are when a contractor's membership does not end.
without := array.concat(array.slice(groups, 0, 1), array.concat([{"name": "partner", "members": [{"selector": "heidi@partner.example"}]}], array.slice(groups, 2, 4)))

rule(from) := {"name": "r", "from": [{"selector": from}], "to": [{"selector": "tag:payroll"}], "place": {"file": "rules.cue"}}

denied(all, r) := result if {
	result := count(contractors.deny) with input as {"network": {"groups": all, "rules": [r]}, "diff": {"gained": []}}
}

test_members_end if every from in ["group:contractors", "group:partner", "group:helpers"] {
	denied(groups, rule(from)) == 0
}

test_a_member_does_not_end if every from in ["group:contractors", "group:partner", "group:helpers"] {
	denied(without, rule(from)) == 1
}

test_the_rule_ends if denied(without, object.union(rule("group:contractors"), {"until": "2027-01-31T00:00:00Z"})) == 0

# Who is named keeps the access when the membership has ended.
test_named if denied(groups, rule("grace@partner.example")) == 1

test_others if {
	denied(without, rule("group:it")) == 0
	denied(without, rule("autogroup:tagged")) == 0
}

# Contractors are among everybody, whether their membership ends or not.
test_everybody if every from in ["autogroup:member", "*"] {
	denied(groups, rule(from)) == 1
	denied(groups, object.union(rule(from), {"until": "2027-01-31T00:00:00Z"})) == 0
	denied(groups, object.union(rule(from), {"to": [{"selector": "tag:web"}]})) == 0
	denied(groups, object.union(rule(from), {"to": [{"selector": "tag:web"}, {"selector": "tag:db"}]})) == 1
	denied([], rule(from)) == 0
}

test_left_out if every group in ["group:contractors", "group:helpers"] {
	denied(groups, object.union(rule("x"), {"from": [{"selector": "autogroup:member", "except": [{"selector": group}]}]})) == 0
}

test_not_left_out if every group in ["group:partner", "group:it"] {
	denied(groups, object.union(rule("x"), {"from": [{"selector": "autogroup:member", "except": [{"selector": group}]}]})) == 1
}

gaining(change) := gaining_from("group:contractors", change)

gaining_from(from, change) := result if {
	result := count(contractors.deny) with input as {
		"network": {"groups": groups, "rules": [object.union(rule(from), {"until": "2027-03-01T00:00:00Z"})]},
		"diff": {"gained": [object.union({"people": ["grace@partner.example"], "rules": ["r"]}, change)]},
		"commit": {"when": "2026-11-22T00:00:00Z"},
	}
}

test_gains_for_long if gaining({"until": "2027-03-01T00:00:00Z"}) == 1

test_gains_as_everybody if {
	gaining_from("autogroup:member", {"until": "2027-03-01T00:00:00Z"}) == 1
	gaining_from("autogroup:tagged", {"until": "2027-03-01T00:00:00Z"}) == 0
}

test_gains_for_a_while if gaining({"until": "2027-01-31T00:00:00Z"}) == 0

test_others_gain if gaining({"people": ["erin@acme.example"]}) == 0

test_checked if contractors.checked == 1 with input as {"network": {"rules": [1]}}
