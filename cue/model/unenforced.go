package model

// unenforced are the constructs of the policy language that nothing in this
// version enforces. They are refused by name: a policy that is accepted is
// enforced whole. "*" stands for any one label.
var unenforced = []struct {
	path []string
	why  string
}{
	{[]string{"identity"}, "nodes are pinned or enrolled, not logged in"},
	{[]string{"routes"}, "there are no subnet routers"},
	{[]string{"exits"}, "there are no exit nodes"},
	{[]string{"posture"}, "nodes report no posture"},
	{[]string{"postures"}, "nodes report no posture"},
	{[]string{"claims"}, "nodes are not logged in, so they have no claims"},
	{[]string{"workload"}, "workload tokens are not accepted"},
	{[]string{"workloads"}, "workload tokens are not accepted"},
	{[]string{"dns"}, "there are no DNS settings"},
	{[]string{"generate"}, "rules are not computed"},
	{[]string{"capabilities"}, "rules carry ports only"},
	{[]string{"network", "session"}, "nodes are not logged in, so nothing ends a session"},
	{[]string{"network", "dns"}, "there are no DNS settings"},
	{[]string{"network", "prefix6"}, "IPv6 addresses follow from the identity key"},
	{[]string{"network", "minAgent"}, "agents of every version are served"},
	{[]string{"groups", "*", "*", "except"}, "a selector does not subtract"},
	{[]string{"rules", "*", "except"}, "a selector does not subtract"},
	{[]string{"rules", "*", "*", "*", "except"}, "a selector does not subtract"},
	{[]string{"rules", "*", "hours"}, "rules hold at all hours until their end"},
	{[]string{"rules", "*", "posture"}, "nodes report no posture"},
	{[]string{"rules", "*", "claims"}, "nodes are not logged in, so they have no claims"},
	{[]string{"rules", "*", "capabilities"}, "rules carry ports only"},
	{[]string{"rules", "*", "via"}, "there are no subnet routers"},
	{[]string{"tests", "*", "*", "*", "posture"}, "nodes report no posture"},
	{[]string{"enrolment", "*", "expires"}, "an enrolment key holds until it is removed"},
	{[]string{"enrolment", "*", "count"}, "uses of an enrolment key are not counted"},
}

// notEnforced says why the construct at path is not enforced; empty when it is
// none of the policy language.
func notEnforced(path []string) string {
next:
	for _, u := range unenforced {
		if len(u.path) != len(path) {
			continue
		}
		for i, label := range u.path {
			if label != "*" && label != path[i] {
				continue next
			}
		}
		return u.why
	}
	return ""
}
