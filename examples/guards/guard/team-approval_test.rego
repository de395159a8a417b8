package guard.team_approval_test

import data.guard.team_approval

asked(change) := result if {
	result := team_approval.require_approval with input as {
		"network": {
			"teams": [{"name": "payments", "scope": [{"selector": "tag:payments"}]}, {"name": "other", "scope": [{"selector": "tag:other"}]}],
			"rules": [{"name": "r", "place": {"file": "rules.cue"}}],
		},
		"diff": {"gained": [object.union({"from": "tag:web", "rules": ["r"]}, change)]},
	}
		with team_approval.leads as {"payments": "group:leads"}
}

test_in_scope if asked({"to": "tag:payments"}) == {{
	"team": "group:leads",
	"reason": `rule "r" gives tag:web access to tag:payments of team payments`,
	"place": {"file": "rules.cue"},
}}

test_elsewhere if asked({"to": "tag:web"}) == set()

test_nobody_leads if asked({"to": "tag:other"}) == set()

test_checked if team_approval.checked == 1 with input as {"network": {"rules": [1]}, "diff": {"gained": []}}
