package guard.no_star_test

import data.guard.no_star

# denied is how often a rule with these ends is refused.
denied(from, to) := result if {
	result := count(no_star.deny) with input as {"network": {
		"groups": [
			{"name": "ledgers", "members": [{"selector": "tag:payroll"}]},
			{"name": "all", "members": [{"selector": "group:ledgers"}, {"selector": "tag:web"}]},
			{"name": "it", "members": [{"selector": "erin@acme.example"}]},
		],
		"nodes": [{"name": "ledger-1", "tags": [{"selector": "tag:payroll"}]}, {"name": "web-1", "tags": [{"selector": "tag:web"}]}],
		"rules": [{"name": "r", "from": [from], "to": [to], "place": {"file": "rules.cue", "line": 1}}],
	}}
		with no_star.sensitive as {"tag:payroll"}
}

star := {"selector": "*", "except": []}

to(selector) := {"selector": selector, "except": []}

test_tag if denied(star, to("tag:payroll")) == 1

test_member if denied({"selector": "autogroup:member"}, to("tag:payroll")) == 1

test_everything if denied(star, star) == 1

test_group if denied(star, to("group:ledgers")) == 1

test_group_of_groups if denied(star, to("group:all")) == 1

test_node if denied(star, to("node:ledger-1")) == 1

test_less_the_tag if denied(star, {"selector": "*", "except": [{"selector": "tag:payroll"}]}) == 0

test_other_servers if {
	denied(star, to("tag:web")) == 0
	denied(star, to("node:web-1")) == 0
	denied(star, to("group:it")) == 0
}

test_some_people if denied({"selector": "group:it"}, to("tag:payroll")) == 0

test_checked if no_star.checked == 1 with input as {"network": {"rules": [{}]}}
