package reach_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/policy/reach"
)

var (
	now   = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	soon  = now.Add(time.Hour)
	later = now.Add(48 * time.Hour)
	past  = now.Add(-time.Hour)
)

// A claim is what is said about one pair of nodes and one target.
type claim struct {
	kind          string // "gained", "lost", "longer", "shorter"
	until, before time.Time
}

type question struct {
	from, to int
	target   acl.Target
}

// TestDiffIsTheOracle asks package acl about every pair of nodes and every
// target near a cut point, under both policies, and reads the difference word by
// word: it claims all that changes, and nothing else.
func TestDiffIsTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := drawPolicy(t, "base", nil)
		head := drawPolicy(t, "head", base)
		inv := drawInventory(t)
		d := reach.Diff(reach.Side{Policy: base, Inventory: inv}, reach.Side{Policy: head, Inventory: inv}, now)
		nodes := reach.Nodes(inv, nil, base, head)
		targets := samples(base, head)

		want := map[question]claim{}
		for f, from := range nodes {
			for to, dest := range nodes {
				if f == to && from.Name != "" {
					continue // a node does not meet itself
				}
				for _, target := range targets {
					was, is := base.Judge(from, dest, target, now), head.Judge(from, dest, target, now)
					q := question{f, to, target}
					switch {
					case is.Allowed && !was.Allowed:
						want[q] = claim{kind: "gained", until: is.Until}
					case was.Allowed && !is.Allowed:
						want[q] = claim{kind: "lost", until: was.Until}
					case is.Allowed && !is.Until.Equal(was.Until) && (is.Until.IsZero() || !was.Until.IsZero() && is.Until.After(was.Until)):
						want[q] = claim{"longer", is.Until, was.Until}
					case is.Allowed && !is.Until.Equal(was.Until):
						want[q] = claim{"shorter", is.Until, was.Until}
					}
				}
			}
		}

		got := map[question]claim{}
		words := vocabulary{nodes, head, base}
		take := func(changes []reach.Change, plain, kept string) {
			for _, c := range changes {
				kind := plain
				if c.Kept {
					kind = kept
				}
				for f := range words.expand(t, c.From) {
					for to := range words.expand(t, c.To) {
						if f == to && nodes[f].Name != "" {
							continue
						}
						for _, target := range targets {
							if !inPorts(t, c.Ports, target, base, head) {
								continue
							}
							q := question{f, to, target}
							if old, ok := got[q]; ok {
								t.Fatalf("%s: claimed twice: %v and %v", words.show(q), old, kind)
							}
							got[q] = claim{kind, c.Until, c.Before}
						}
					}
				}
			}
		}
		take(d.Gained, "gained", "longer")
		take(d.Lost, "lost", "shorter")

		for q, w := range want {
			if g := got[q]; g.kind != w.kind || !g.until.Equal(w.until) || !g.before.Equal(w.before) {
				t.Fatalf("%s: got %v, want %v\ndifference: %+v", words.show(q), g, w, d)
			}
		}
		for q, g := range got {
			if _, ok := want[q]; !ok {
				t.Fatalf("%s: got %v, want no change\ndifference: %+v", words.show(q), g, d)
			}
		}
	})
}

// asked is a policy of no effect whose ports are those asked about, so that they
// are sampled.
func asked(ports []acl.Ports) *reach.Compiled {
	return &reach.Compiled{Inbound: []acl.Inbound{{To: sel("node:nowhere"), Grants: []acl.Grant{{Rule: "asked", Allow: ports}}}}}
}

func sel(s string) acl.Selector {
	x, err := acl.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return x
}

func mustPorts(s string) acl.Ports {
	p, err := acl.ParsePorts(s)
	if err != nil {
		panic(err)
	}
	return p
}

var portTexts = []string{"tcp/80", "tcp/79-81", "tcp/1-65535", "tcp/443", "udp/53", "icmp", "proto/1", "proto/58", "proto/47", "proto/6", "*", "sctp/65535", "tcp/1"}

// drawPolicy draws a small compiled policy; parts of another are taken over, so
// that not everything differs.
func drawPolicy(t *rapid.T, label string, like *reach.Compiled) *reach.Compiled {
	draw := func(what string, from []string) string { return rapid.SampledFrom(from).Draw(t, label+" "+what) }
	flip := func(what string) bool { return rapid.Bool().Draw(t, label+" "+what) }
	times := []time.Time{{}, {}, soon, later, past}
	when := func(what string) time.Time { return rapid.SampledFrom(times).Draw(t, label+" "+what) }
	c := &reach.Compiled{Principals: map[acl.Selector][]acl.Membership{}}
	for _, p := range []string{"a@x", "b@x", "c@x", "tag:s", "tag:t"} {
		if like != nil && flip("same groups of "+p) {
			if m := like.Principals[sel(p)]; m != nil {
				c.Principals[sel(p)] = m
			}
			continue
		}
		for _, g := range []string{"g", "h"} {
			if flip(p + " in " + g) {
				c.Principals[sel(p)] = append(c.Principals[sel(p)], acl.Membership{Group: g, Until: when("until")})
			}
		}
	}
	sources := []string{"a@x", "b@x", "group:g", "group:h", "tag:s", "tag:t", "node:n", "autogroup:member", "autogroup:tagged", "*"}
	dests := append(slices.Clone(sources), "autogroup:self")
	for _, to := range dests {
		if like != nil && flip("same to "+to) {
			for _, in := range like.Inbound {
				if in.To == sel(to) {
					c.Inbound = append(c.Inbound, in)
				}
			}
			continue
		}
		if rapid.IntRange(0, 3).Draw(t, label+" grants to "+to) > 0 {
			continue
		}
		in := acl.Inbound{To: sel(to)}
		for i := range rapid.IntRange(1, 2).Draw(t, label+" grants") {
			in.Grants = append(in.Grants, acl.Grant{
				Rule: fmt.Sprintf("%s%d", to, i), From: []acl.Selector{sel(draw("from", sources))},
				Allow: []acl.Ports{mustPorts(draw("port", portTexts)), mustPorts(draw("port", portTexts))}, Until: when("until"),
			})
		}
		c.Inbound = append(c.Inbound, in)
	}
	if flip("pin") {
		c.Pins = append(c.Pins, leaf.Node{Name: "n", User: "a@x"})
	}
	if flip("enrolment") {
		c.Enrolments = append(c.Enrolments, leaf.Enrolment{Name: "e", Tags: []string{"s", "t"}})
	}
	return c
}

func drawInventory(t *rapid.T) *reach.Inventory {
	if rapid.Bool().Draw(t, "no inventory") {
		return nil
	}
	inv := &reach.Inventory{}
	for _, n := range []reach.Admitted{{Name: "n", User: "a@x"}, {Name: "m", User: "b@x"}, {Name: "s1", Tags: []string{"s"}}, {Name: "s2", Tags: []string{"t", "s"}}} {
		if rapid.Bool().Draw(t, "admitted "+n.Name) {
			inv.Nodes = append(inv.Nodes, n)
		}
	}
	return inv
}

// samples are the targets at, before and after every cut point of the policies.
func samples(policies ...*reach.Compiled) []acl.Target {
	ports := map[int]bool{0: true, 1: true, 2: true, 65534: true, 65535: true}
	protos := map[acl.Proto]bool{acl.ICMP: true, acl.ICMPv6: true, 200: true, 253: true}
	for _, c := range policies {
		for _, in := range c.Inbound {
			for _, g := range in.Grants {
				for _, p := range g.Allow {
					if p.Range == acl.RangeProto {
						protos[p.Proto] = true
					}
					for _, edge := range []uint16{p.First, p.Last} {
						for near := max(int(edge)-1, 0); near <= min(int(edge)+1, 65535); near++ {
							ports[near] = true
						}
					}
				}
			}
		}
	}
	out := []acl.Target{{Proto: acl.ICMP, Echo: true}, {Proto: acl.ICMPv6, Echo: true}}
	for _, proto := range []acl.Proto{acl.TCP, acl.UDP, acl.SCTP} {
		delete(protos, proto)
		for _, p := range slices.Sorted(maps.Keys(ports)) {
			out = append(out, acl.Target{Proto: proto, Port: uint16(p)})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(protos)) {
		out = append(out, acl.Target{Proto: p})
	}
	return out
}

// inPorts reads the words for ports as a person does.
func inPorts(t *rapid.T, words []string, target acl.Target, policies ...*reach.Compiled) bool {
	for _, w := range words {
		v4, v6 := target.Proto == acl.ICMP, target.Proto == acl.ICMPv6
		switch w {
		case "icmp over IPv4":
			if target.Echo && v4 {
				return true
			}
			continue
		case "icmp over IPv6":
			if target.Echo && v6 {
				return true
			}
			continue
		case "proto/1 but icmp":
			if !target.Echo && v4 {
				return true
			}
			continue
		case "proto/58 but icmp":
			if !target.Echo && v6 {
				return true
			}
			continue
		case "other protocols":
			if !target.Echo && !named(target.Proto, policies) {
				return true
			}
			continue
		}
		if p, err := acl.ParsePorts(w); err == nil {
			if p.Contains(target) {
				return true
			}
			continue
		}
		// A range from port 0, which a rule cannot write but a packet can.
		name, ends, _ := strings.Cut(w, "/0")
		last := 0
		if rest, ok := strings.CutPrefix(ends, "-"); ok {
			n, err := strconv.Atoi(rest)
			if err != nil {
				t.Fatalf("port %q: %v", w, err)
			}
			last = n
		} else if ends != "" {
			t.Fatalf("port %q means nothing", w)
		}
		if target.Proto.String() == name && int(target.Port) <= last {
			return true
		}
	}
	return false
}

// named reports whether a protocol is one with ports, or one that a rule names.
func named(p acl.Proto, policies []*reach.Compiled) bool {
	if p == acl.TCP || p == acl.UDP || p == acl.SCTP {
		return true
	}
	for _, c := range policies {
		for _, in := range c.Inbound {
			for _, g := range in.Grants {
				for _, x := range g.Allow {
					if x.Range == acl.RangeProto && x.Proto == p {
						return true
					}
				}
			}
		}
	}
	return false
}

// A vocabulary reads words for nodes as a person does: under the new policy, or
// where that knows nobody of the name, under the old.
type vocabulary struct {
	nodes      []reach.Node
	head, base *reach.Compiled
}

func (v vocabulary) expand(t *rapid.T, words []string) map[int]bool {
	out := map[int]bool{}
	for _, w := range words {
		of, except, cut := strings.Cut(w, " except ")
		set := v.word(t, of)
		if cut {
			for i := range v.word(t, except) {
				delete(set, i)
			}
		}
		maps.Copy(out, set)
	}
	return out
}

func (v vocabulary) word(t *rapid.T, w string) map[int]bool {
	out := map[int]bool{}
	plain, other := strings.CutPrefix(w, "other nodes of ")
	if s, err := acl.ParseSelector(w); err == nil {
		for _, c := range []*reach.Compiled{v.head, v.base} {
			for i, n := range v.nodes {
				if c != nil && c.Selects(s, n, now) {
					out[i] = true
				}
			}
			if len(out) > 0 {
				return out
			}
		}
	}
	for i, n := range v.nodes {
		if n.String() == w || other && n.Name == "" && n.String() == plain {
			out[i] = true
		}
	}
	if len(out) != 1 {
		t.Fatalf("%q means %d nodes of %v, want one", w, len(out), v.nodes)
	}
	return out
}

func (v vocabulary) show(q question) string {
	return fmt.Sprintf("%s to %s on %s", v.nodes[q.from], v.nodes[q.to], q.target)
}
