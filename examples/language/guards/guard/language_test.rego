package guard.language_test

import data.guard.language

# A test sees the input that it makes.
rule(fields) := object.union({"name": "r", "posture": [], "place": {"file": "a.cue"}}, fields)

test_production if {
	deploy := rule({"capabilities": {"acme.example/cap/deploy": {"stages": ["production"]}}})
	count(language.deny) == 1 with input as {"network": {"rules": [deploy]}}
}

test_other_capabilities if {
	other := rule({"capabilities": {"acme.example/cap/read": {"stages": ["production"]}}})
	count(language.deny) == 0 with input as {"network": {"rules": [other]}}
}

test_posture if {
	count(language.warn) == 1 with input as {"network": {"rules": [rule({})]}}
	count(language.warn) == 0 with input as {"network": {"rules": [rule({"posture": [{"name": "managed"}]})]}}
}

test_payroll if {
	some approval in language.require_approval with input as {"diff": {"gained": [{"from": "a@acme.example", "to": "tag:payroll", "ports": ["tcp/443"]}]}}
	approval.reason == "a@acme.example gains tag:payroll on tcp/443"
}

test_checked if language.checked == 1 with input as {"network": {"rules": [1]}}
