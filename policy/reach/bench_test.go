package reach_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
)

// company is a policy of users in groups, where every user is in a group of forty
// and one in ten in a second, a tag for every ten rules, and rules from groups to
// tags, of which one in two hundred is to everything. The seed moves everything.
func company(users, rules int, seed uint64) *reach.Compiled {
	r := rand.New(rand.NewPCG(seed, 1))
	c := &reach.Compiled{Principals: map[acl.Selector][]acl.Membership{}}
	groups, tags := max(users/10, 1), max(rules/10, 1)
	for u := range users {
		p := sel(fmt.Sprintf("u%05d@x", u))
		in := map[int]bool{u % groups: true}
		for r.IntN(10) == 0 {
			in[r.IntN(groups)] = true
		}
		for g := range groups {
			if in[g] {
				c.Principals[p] = append(c.Principals[p], acl.Membership{Group: fmt.Sprintf("g%d", g)})
			}
			if len(c.Principals[p]) == len(in) {
				break
			}
		}
		c.Principals[p] = append(c.Principals[p], acl.Membership{Group: fmt.Sprintf("d%d", u%groups%20)}, acl.Membership{Group: "staff"})
	}
	to := map[string]*acl.Inbound{}
	var order []string
	for i := range rules {
		dest := fmt.Sprintf("tag:t%d", r.IntN(tags))
		if i%200 == 199 {
			dest = "*"
		}
		if to[dest] == nil {
			to[dest] = &acl.Inbound{To: sel(dest)}
			order = append(order, dest)
		}
		from := fmt.Sprintf("group:g%d", r.IntN(groups))
		if r.IntN(20) == 0 {
			from = fmt.Sprintf("group:d%d", r.IntN(20))
		}
		to[dest].Grants = append(to[dest].Grants, acl.Grant{
			Rule: fmt.Sprintf("r%d", i), From: []acl.Selector{sel(from)},
			Allow: []acl.Ports{mustPorts(fmt.Sprintf("tcp/%d", 8000+r.IntN(300)))},
		})
	}
	for _, dest := range order {
		c.Inbound = append(c.Inbound, *to[dest])
	}
	return c
}

// nodes is an inventory of a company: seven in ten nodes are users'.
func nodes(users, tags, n int) *reach.Inventory {
	inv := &reach.Inventory{}
	for i := range n {
		a := reach.Admitted{Name: fmt.Sprintf("n%d", i)}
		if i%10 < 7 {
			a.User = fmt.Sprintf("u%05d@x", i%users)
		} else {
			a.Tags = []string{fmt.Sprintf("t%d", i%tags)}
			if i%30 == 9 {
				a.Tags = append(a.Tags, fmt.Sprintf("t%d", i*7%tags))
			}
		}
		inv.Nodes = append(inv.Nodes, a)
	}
	return inv
}

// sizes are numbers of users and rules; the last are of the table in BENCHMARKS.md.
var sizes = []struct{ users, rules, nodes int }{{1_000, 1_000, 10_000}, {10_000, 10_000, 100_000}}

// edited is a policy of which five rules are other ones.
func edited(c *reach.Compiled) *reach.Compiled {
	out := *c
	out.Inbound = append([]acl.Inbound(nil), c.Inbound...)
	for i := range 5 {
		in := out.Inbound[i*7+1]
		in.Grants = append([]acl.Grant(nil), in.Grants...)
		in.Grants[0].From = []acl.Selector{sel("group:d3")}
		out.Inbound[i*7+1] = in
	}
	return &out
}

func BenchmarkDiff(b *testing.B) {
	for _, size := range sizes {
		base, inv := company(size.users, size.rules, 1), nodes(size.users, size.rules/10, size.nodes)
		name := fmt.Sprintf("users=%d/rules=%d/nodes=%d/", size.users, size.rules, size.nodes)
		for _, x := range []struct {
			name string
			head *reach.Compiled
			some bool
		}{{"five-rules", edited(base), true}, {"nothing", company(size.users, size.rules, 1), false}, {"everything", company(size.users, size.rules, 2), true}} {
			b.Run(name+x.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					d := reach.Diff(reach.Side{Policy: base, Inventory: inv}, reach.Side{Policy: x.head, Inventory: inv}, now)
					if x.some != (len(d.Gained) > 0) {
						b.Fatalf("got %d gains, want some: %t", len(d.Gained), x.some)
					}
					b.ReportMetric(float64(len(d.Gained)+len(d.Lost)), "changes")
				}
			})
		}
	}
}

// BenchmarkQuestions asks as tests do: half that all of a group reach a tag, which
// they do, and half that another group does not.
func BenchmarkQuestions(b *testing.B) {
	const count = 5_000
	for _, size := range sizes {
		c := company(size.users, size.rules, 1)
		var asked []reach.Question
		for i := range count {
			in := c.Inbound[i%len(c.Inbound)]
			g := in.Grants[i%len(in.Grants)]
			q := reach.Question{From: []model.Ref{{Selector: g.From[0]}}, To: []model.Ref{{Selector: in.To}}, Ports: g.Allow, At: now}
			if i%2 == 1 {
				q.Ports = []acl.Ports{mustPorts("tcp/22")}
			}
			asked = append(asked, q)
		}
		b.Run(fmt.Sprintf("users=%d/rules=%d/questions=%d", size.users, size.rules, count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := reach.NewWorld(c, nil, asked)
				for i, q := range asked {
					var f []reach.Finding
					if i%2 == 1 {
						f = w.Reachable(q)
					} else {
						f = w.Missing(q)
					}
					if len(f) > 0 {
						b.Fatalf("question %d: found %+v, want nothing", i, f[0])
					}
				}
			}
		})
	}
}

// estate is a policy of rules to as many hosts, each of its own prefix, behind
// routes of 256 each.
func estate(hosts int) *reach.Compiled {
	c := company(1_000, 1_000, 1)
	for i := 0; i < hosts; i += 256 {
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), 0}), 24)
		r := acl.Route{Prefix: net, Via: []acl.Selector{sel("tag:t0")}}
		for j := i; j < min(i+256, hosts); j++ {
			host := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)}), 32)
			r.Inbound = append(r.Inbound, acl.Inbound{To: acl.PrefixSelector(host), Grants: []acl.Grant{{
				Rule: fmt.Sprintf("h%d", j), From: []acl.Selector{sel(fmt.Sprintf("group:g%d", j%100))}, Allow: []acl.Ports{mustPorts("tcp/443")},
			}}})
		}
		c.Routes = append(c.Routes, r)
	}
	return c
}

// BenchmarkPrefixes compares policies of many prefixes, of which one rule is
// another.
func BenchmarkPrefixes(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		base, head := estate(n), estate(n)
		head.Routes[1].Inbound[1].Grants[0].Allow = []acl.Ports{mustPorts("tcp/22")}
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			for b.Loop() {
				d := reach.Diff(reach.Side{Policy: base}, reach.Side{Policy: head}, now)
				if len(d.Gained) != 1 || len(d.Lost) != 1 {
					b.Fatalf("got %d gains and %d losses, want one of each", len(d.Gained), len(d.Lost))
				}
			}
		})
	}
}

// BenchmarkGrowth compares policies of 1,000 and of 10,000 rules, with users and
// nodes fixed, and reports by which power of the rules the time grows: 1 is linear.
func BenchmarkGrowth(b *testing.B) {
	inv := nodes(1_000, 100, 10_000)
	took := func(b *testing.B, rules int) time.Duration {
		base := company(1_000, rules, 1)
		head := edited(base)
		best := time.Duration(math.MaxInt64)
		for range 3 {
			begun := time.Now()
			if d := reach.Diff(reach.Side{Policy: base, Inventory: inv}, reach.Side{Policy: head, Inventory: inv}, now); len(d.Gained) == 0 {
				b.Fatal("nothing is gained, want something")
			}
			best = min(best, time.Since(begun))
		}
		return best
	}
	for b.Loop() {
		few, many := took(b, 1_000), took(b, 10_000)
		b.ReportMetric(math.Log10(float64(many)/float64(few)), "exponent")
		b.ReportMetric(float64(many.Milliseconds()), "ms/10000-rules")
	}
}

func BenchmarkRedundant(b *testing.B) {
	for _, size := range sizes {
		c := company(size.users, size.rules, 1)
		b.Run(fmt.Sprintf("users=%d/rules=%d", size.users, size.rules), func(b *testing.B) {
			for b.Loop() {
				w := reach.NewWorld(c, nil, []reach.Question{{At: now}})
				b.ReportMetric(float64(len(w.Redundant())), "redundant")
			}
		})
	}
}
