package generate.own_test

import data.generate.own

network := {
	"groups": [{"name": "a", "place": {"file": "x.cue"}}, {"name": "b", "place": {"file": "x.cue"}}],
	"tags": [{"name": "b", "place": {"file": "y.cue"}}, {"name": "c", "place": {"file": "y.cue"}}],
}

test_same_name if object.keys(own.rules) == {"own-b"} with input as {"network": network}

test_ends if {
	rule := own.rules["own-b"] with input as {"network": network}
	rule.from == ["group:b"]
	rule.to == ["tag:b"]
	rule.origin == [{"file": "x.cue"}, {"file": "y.cue"}]
}
