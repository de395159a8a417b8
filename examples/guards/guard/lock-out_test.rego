package guard.lock_out_test

import data.guard.lock_out

network := {
	"network": {"coordinators": [{"name": "eu", "addr": "eu:443"}, {"name": "us", "addr": "us:443"}]},
	"relays": [{"name": "eu", "addr": "eu:443"}],
	"admins": [{"selector": "group:it"}],
	"tags": [{"name": "control"}],
	"groups": [{"name": "it", "members": [{"selector": "group:erin"}, {"selector": "dave@acme.example"}]}, {"name": "erin", "members": [{"selector": "erin@acme.example"}]}],
	"rules": [way],
}

way := {
	"from": [{"selector": "group:it", "except": []}], "to": [{"selector": "tag:control", "except": []}],
	"ports": ["tcp/22"], "hours": [], "posture": [],
}

none := {"lost": [], "admission": []}

# says is what the guard says of the network with other fields, and a difference.
says(other, difference) := result if {
	result := {d.msg | some d in lock_out.deny} with input as {"network": object.union(network, other), "diff": object.union(none, difference)}
}

test_silent if says({}, {}) == set()

test_no_administrators if says({"admins": []}, {}) == {"0 people administer the network, want at least 2"}

test_too_few if says({"groups": [{"name": "it", "members": [{"selector": "dave@acme.example"}]}]}, {}) == {"1 people administer the network, want at least 2"}

test_one_ends if {
	says({"groups": [{"name": "it", "members": [{"selector": "dave@acme.example"}, {"selector": "erin@acme.example", "until": "2027-01-01T00:00:00Z"}]}]}, {}) == {"1 people administer the network, want at least 2"}
}

test_by_name if says({"admins": [{"selector": "erin@acme.example"}, {"selector": "dave@acme.example"}], "rules": [object.union(way, {"from": [{"selector": "autogroup:member", "except": []}]})]}, {}) == set()

closed := {"no rule lets all administrators reach tag:control on tcp/22 at any time"}

test_no_way if {
	says({"rules": []}, {}) == closed
	every other in [
		{"until": "2027-01-01T00:00:00Z"},
		{"hours": [{"days": ["mon"]}]},
		{"posture": [{"name": "managed"}]},
		{"ports": ["tcp/443"]},
		{"from": [{"selector": "group:it", "except": [{"selector": "erin@acme.example"}]}]},
		{"from": [{"selector": "erin@acme.example", "except": []}]},
		{"to": [{"selector": "*", "except": [{"selector": "tag:control"}]}]},
		{"to": [{"selector": "tag:web", "except": []}]},
	] {
		says({"rules": [object.union(way, other)]}, {}) == closed
	}
}

test_another_way if says({"rules": [object.union(way, {"ports": ["*"], "to": [{"selector": "*", "except": []}]})]}, {}) == set()

test_no_control_servers if says({"tags": [], "rules": []}, {}) == set()

test_an_administrator_loses if {
	lost := {"to": "tag:control", "ports": ["tcp/22"], "people": ["erin@acme.example"]}
	says({}, {"lost": [lost]}) == {"erin@acme.example administers the network and loses tcp/22 to tag:control"}
	says({}, {"lost": [object.union(lost, {"kept": true})]}) == set()
	says({}, {"lost": [object.union(lost, {"people": ["alice@acme.example"]})]}) == set()
	says({}, {"lost": [object.union(lost, {"ports": ["tcp/80"]})]}) == set()
}

moved(kind, name, change) := {"kind": kind, "name": name, "change": change, "place": {"file": "network.cue"}}

test_the_last_relay if {
	want := {"no relay stays as nodes know it; change one after another"}
	says({}, {"admission": [moved("relay", "eu", "changed")]}) == want
	says({"relays": []}, {"admission": [moved("relay", "eu", "removed")]}) == want
}

test_one_of_two_coordinators if {
	says({}, {"admission": [moved("coordinator", "us:443", "changed")]}) == set()
}

test_all_coordinators if {
	says({}, {"admission": [moved("coordinator", "us:443", "changed"), moved("coordinator", "eu:443", "changed")]}) == {"no coordinator stays as nodes know it; change one after another"}
}

test_checked if lock_out.checked == 2 with input as {"network": network}
