package guard.owner_ticket_test

import data.guard.owner_ticket

denied(rule) := result if {
	result := {d.msg | some d in owner_ticket.deny} with input as {"network": {"rules": [object.union(rule, {"name": "r", "place": {"file": "rules.cue"}})]}}
}

test_both if denied({"owner": "group:it", "why": "OPS-7: because"}) == set()

test_no_owner if denied({"why": "OPS-7"}) == {`rule "r" has no owner: write owner`}

test_no_ticket if {
	want := {`rule "r" has no ticket: begin why with one, as in "OPS-7: …"`}
	denied({"owner": "group:it"}) == want
	denied({"owner": "group:it", "why": "because of OPS-7"}) == want
}

test_other_tickets if count(denied({"owner": "group:it", "why": "#7"})) == 0 with owner_ticket.ticket as "^#[0-9]+"

test_checked if owner_ticket.checked == 1 with input as {"network": {"rules": [1]}}
