package reach_test

import (
	"fmt"
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/policy/reach"
)

// company is a policy of users in groups of forty, a tag for each group, and
// rules from each group to some tags.
func company(users, rules int) *reach.Compiled {
	c := &reach.Compiled{Principals: map[acl.Selector][]acl.Membership{}}
	groups := max(users/40, 1)
	for u := range users {
		c.Principals[sel(fmt.Sprintf("u%d@x", u))] = []acl.Membership{{Group: fmt.Sprintf("g%d", u%groups)}, {Group: "all"}}
	}
	inbound := map[int]*acl.Inbound{}
	for r := range rules {
		to := r * 7 % groups
		if inbound[to] == nil {
			inbound[to] = &acl.Inbound{To: sel(fmt.Sprintf("tag:t%d", to))}
		}
		inbound[to].Grants = append(inbound[to].Grants, acl.Grant{
			Rule: fmt.Sprintf("r%d", r), From: []acl.Selector{sel(fmt.Sprintf("group:g%d", r%groups))},
			Allow: []acl.Ports{mustPorts(fmt.Sprintf("tcp/%d", 8000+r%50))},
		})
	}
	for to := range groups {
		if inbound[to] != nil {
			c.Inbound = append(c.Inbound, *inbound[to])
		}
	}
	return c
}

func BenchmarkDiff(b *testing.B) {
	for _, size := range []struct{ users, rules int }{{100, 50}, {2000, 500}} {
		base, head := company(size.users, size.rules), company(size.users, size.rules)
		head.Principals[sel("u1@x")] = append(head.Principals[sel("u1@x")], acl.Membership{Group: "g0"})
		b.Run(fmt.Sprintf("users=%d/rules=%d/one-joins", size.users, size.rules), func(b *testing.B) {
			for b.Loop() {
				if d := reach.Equal(base, head, now); len(d.Gained) == 0 {
					b.Fatal("no gain, want one")
				}
			}
		})
	}
}
