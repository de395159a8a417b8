package guard.widening_test

import data.guard.widening

asked(changes) := result if {
	result := count(widening.require_approval) with input as {
		"diff": {"gained": [object.union({"from": "group:few"}, c) | some c in changes]},
		"network": {"groups": [
			{"name": "few", "members": [{"selector": "a@acme.example"}, {"selector": "group:fewer"}]},
			{"name": "fewer", "members": [{"selector": "tag:web"}]},
			{"name": "idp", "members": [{"selector": "claim:groups=all"}]},
			{"name": "outer", "members": [{"selector": "group:idp"}]},
		]},
	}
		with widening.most as 2
}

test_few if asked([{"people": ["a@acme.example"]}, {"people": ["a@acme.example", "b@acme.example"]}]) == 0

test_many if asked([{"people": ["a@acme.example"]}, {"people": ["b@acme.example", "c@acme.example"]}]) == 1

# Who is not counted is many.
test_unbounded if every from in ["*", "autogroup:member", "autogroup:member except a@acme.example", "group:idp", "group:outer", "claim:groups=all"] {
	asked([{"from": from, "people": []}]) == 1
}

test_counted if every from in ["group:few", "tag:web", "autogroup:tagged", "a@acme.example"] {
	asked([{"from": from, "people": []}]) == 0
}

test_joining_is_no_change_of_the_policy if {
	asked([{"by": "inventory", "people": ["a@acme.example", "b@acme.example", "c@acme.example"]}]) == 0
}

test_who if {
	some approval in widening.require_approval with input as {"diff": {"gained": [{"from": "a@acme.example", "people": ["a@acme.example"]}]}, "network": {"groups": []}}
		with widening.most as 0
		with widening.team as "group:security"
	approval == {"team": "group:security", "reason": "1 people gain access; more than 0 need approval"}
}

test_checked if widening.checked == 3 with input as {"network": {"rules": [1, 2]}, "diff": {"gained": [3]}}
