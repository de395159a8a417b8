package guard.guard_changes_test

import data.guard.guard_changes

asked(kind) := result if {
	result := guard_changes.require_approval with input as {"diff": {"admission": [{"kind": kind, "name": "guard/x.rego", "change": "removed"}]}}
		with guard_changes.team as "group:security"
}

test_a_guard if asked("guard") == {{"team": "group:security", "reason": "guard/x.rego is removed"}}

test_something_else if asked("relay") == set()

test_checked if guard_changes.checked == 2 with input as {"network": {"rules": [1, 2]}}
