package guard.widening_test

import data.guard.widening

asked(changes) := result if {
	result := count(widening.require_approval) with input as {"diff": {"gained": changes}}
		with widening.most as 2
}

test_few if asked([{"people": ["a@acme.example"]}, {"people": ["a@acme.example", "b@acme.example"]}]) == 0

test_many if asked([{"people": ["a@acme.example"]}, {"people": ["b@acme.example", "c@acme.example"]}]) == 1

test_joining_is_no_change_of_the_policy if {
	asked([{"by": "inventory", "people": ["a@acme.example", "b@acme.example", "c@acme.example"]}]) == 0
}

test_who if {
	some approval in widening.require_approval with input as {"diff": {"gained": [{"people": ["a@acme.example"]}]}}
		with widening.most as 0
		with widening.team as "group:security"
	approval == {"team": "group:security", "reason": "1 people gain access; more than 0 need approval"}
}

test_checked if widening.checked == 3 with input as {"network": {"rules": [1, 2]}, "diff": {"gained": [3]}}
