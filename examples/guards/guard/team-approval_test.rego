package guard.team_approval_test

import data.guard.team_approval

asked(change) := within([{"selector": "tag:payments"}], change)

within(scope, change) := result if {
	result := team_approval.require_approval with input as {
		"network": {
			"teams": [{"name": "payments", "scope": scope}, {"name": "other", "scope": [{"selector": "tag:other"}]}],
			"groups": [{"name": "payments", "members": [{"selector": "group:clerks"}]}, {"name": "clerks", "members": [{"selector": "ann@acme.example"}]}],
			"hosts": [{"name": "ledger", "prefix": "10.20.0.5/32"}, {"name": "office", "prefix": "10.20.0.0/16"}, {"name": "six", "prefix": "fd00::1/128"}],
			"nodes": [{"name": "till", "tags": [{"selector": "tag:payments"}]}, {"name": "ann-pc", "user": "ann@acme.example"}],
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

# Whatever may be in the scope is asked about, however it is named.
test_covered if every to in ["*", "* except tag:web", "autogroup:tagged", "node:till"] {
	some approval in asked({"to": to})
	approval.reason == sprintf(`rule "r" gives tag:web access to %s, and so to tag:payments of team payments`, [to])
}

test_people if every to in ["autogroup:member", "autogroup:self", "group:clerks", "ann@acme.example", "node:ann-pc", "*"] {
	count(within([{"selector": "group:payments"}], {"to": to})) == 1
	count(within([{"selector": "ann@acme.example"}], {"to": to})) == 1
}

test_not_people if every to in ["autogroup:tagged", "tag:payments", "group:nobody"] {
	count(within([{"selector": "group:payments"}], {"to": to})) == 0
}

test_addresses if every to in ["host:ledger", "host:office", "10.0.0.0/8", "10.20.0.5"] {
	count(within([{"selector": "host:ledger"}], {"to": to})) == 1
	count(within([{"selector": "10.20.0.0/24"}], {"to": to})) == 1
}

test_address_6 if every to in ["host:six", "fd00::1", "fd00::/8"] {
	count(within([{"selector": "fd00::1"}], {"to": to})) == 1
}

test_other_addresses if every to in ["10.21.0.0/16", "fd00::1", "host:none", "autogroup:tagged"] {
	count(within([{"selector": "host:ledger"}], {"to": to})) == 0
}

test_elsewhere if asked({"to": "tag:web"}) == set()

test_nobody_leads if asked({"to": "tag:other"}) == set()

test_checked if team_approval.checked == 1 with input as {"network": {"rules": [1]}, "diff": {"gained": []}}
