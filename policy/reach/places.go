package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Step is one place in the policy and what stands there.
type Step struct {
	Place model.Place `json:"place"`
	Text  string      `json:"text"`
}

// Places finds where in a policy the things stand that a verdict rests on. It is
// made once for a policy, in time that grows with the policy's size, and asked
// often. It may be used by several goroutines.
type Places struct {
	policy   *model.Policy
	rules    map[string]*model.Rule
	hosts    map[string]*model.Host
	services map[string]*model.Service
	postures map[string]*model.Posture
	nodes    map[string]*model.Node
	pinned   map[netip.Addr]*model.Node
	above    map[acl.Selector][]edge // what is written in groups → where

	definitions func() map[string]bool // the text of every step that is a definition
}

// An edge is a member's place in a group.
type edge struct {
	group string
	until time.Time
	place model.Place
}

// NewPlaces indexes a checked policy, which must not change.
func NewPlaces(p *model.Policy) *Places {
	x := &Places{
		policy:   p,
		rules:    byName(p.Rules, func(r *model.Rule) string { return r.Name }),
		hosts:    byName(p.Hosts, func(h *model.Host) string { return h.Name }),
		services: byName(p.Services, func(s *model.Service) string { return s.Name }),
		postures: byName(p.Postures, func(s *model.Posture) string { return s.Name }),
		nodes:    byName(p.Nodes, func(n *model.Node) string { return n.Name }),
		above:    make(map[acl.Selector][]edge),
		pinned:   make(map[netip.Addr]*model.Node),
	}
	for i := range p.Nodes {
		if n := &p.Nodes[i]; n.Address4.IsValid() {
			x.pinned[n.Address4] = n
		}
	}
	for _, g := range p.Groups {
		for _, m := range g.Members {
			x.above[m.Selector] = append(x.above[m.Selector], edge{g.Name, m.Until, m.Place})
		}
	}
	x.definitions = sync.OnceValue(x.allDefinitions)
	return x
}

func byName[T any](list []T, name func(*T) string) map[string]*T {
	out := make(map[string]*T, len(list))
	for i := range list {
		out[name(&list[i])] = &list[i]
	}
	return out
}

// Rule is where a rule stands; zero where there is none of the name.
func (x *Places) Rule(name string) model.Place {
	if r := x.rules[name]; r != nil {
		return r.Place
	}
	return model.Place{}
}

// GroupPath is the shortest way by which a principal is in a group at a time: the
// place of each membership, innermost first. It is nil where there is none.
func (x *Places) GroupPath(principal acl.Selector, group string, at time.Time) []Step {
	return x.path(principal, group, func(e edge) bool { return e.until.IsZero() || at.Before(e.until) })
}

// path is GroupPath over the memberships that count.
func (x *Places) path(principal acl.Selector, group string, counts func(edge) bool) []Step {
	type way struct {
		member acl.Selector
		by     edge
		from   int // index in queue of the way to member; -1 at the principal
	}
	queue := []way{{member: principal, from: -1}}
	seen := map[acl.Selector]bool{principal: true}
	for i := 0; i < len(queue); i++ {
		for _, e := range x.above[queue[i].member] {
			if !counts(e) {
				continue
			}
			if e.group == group {
				steps := []Step{membership(queue[i].member, e)}
				for j := i; queue[j].from >= 0; j = queue[j].from {
					steps = append(steps, membership(queue[queue[j].from].member, queue[j].by))
				}
				slices.Reverse(steps)
				return steps
			}
			sel := acl.Selector{Kind: acl.KindGroup, Name: e.group}
			if !seen[sel] {
				seen[sel] = true
				queue = append(queue, way{sel, e, i})
			}
		}
	}
	return nil
}

func membership(member acl.Selector, e edge) Step {
	text := member.String() + " is in group:" + e.group
	if !e.until.IsZero() {
		text += " until " + Moment(e.until)
	}
	return Step{e.place, text}
}

// GroupPath is [Places.GroupPath] for a single question.
func GroupPath(p *model.Policy, principal acl.Selector, group string, at time.Time) []Step {
	return NewPlaces(p).GroupPath(principal, group, at)
}

// hostStep says what a host is.
func hostStep(h *model.Host) Step {
	return Step{h.Place, fmt.Sprintf("host:%s is %s", h.Name, acl.PrefixSelector(h.Prefix))}
}

// postureStep says what a posture asks for.
func postureStep(p *model.Posture) Step {
	return Step{p.Place, fmt.Sprintf("posture %s: %s", p.Name, p.Conditions)}
}

// routeStep says whom the policy lets forward to a prefix.
func routeStep(r *model.Route) Step {
	return Step{r.Place, fmt.Sprintf("%s is behind %s", r.Prefix, refText(r.Via))}
}

func exitStep(x *model.Exit) Step {
	return Step{x.Place, "the internet is behind " + refText(x.Via)}
}

// pinStep says which node has an address.
func pinStep(n *model.Node) Step {
	return Step{n.Place, fmt.Sprintf("node:%s has %s", n.Name, n.Address4)}
}

// pinnedTag says that a pinned node bears a tag, or is a user's.
func pinnedAs(n *model.Node, sel acl.Selector) Step {
	for _, r := range n.Tags {
		if r.Selector == sel {
			return Step{r.Place, fmt.Sprintf("node:%s is %s", n.Name, sel)}
		}
	}
	return Step{n.Place, fmt.Sprintf("node:%s is %s", n.Name, sel)}
}

// serviceSteps is the way from a port as written to the ports that contain the
// target: nil where they do not, empty where what is written does itself.
func (x *Places) serviceSteps(text string, target acl.Target) ([]Step, bool) {
	return x.inService(text, target, nil)
}

// inService goes into services; those on the way to here end what goes round.
func (x *Places) inService(text string, target acl.Target, above []string) ([]Step, bool) {
	name, ok := strings.CutPrefix(text, "service:")
	if !ok {
		ports, err := acl.ParsePorts(text)
		return nil, err == nil && ports.Contains(target)
	}
	s := x.services[name]
	if s == nil || slices.Contains(above, name) {
		return nil, false
	}
	for _, ref := range s.Ports {
		if rest, ok := x.inService(ref.Text, target, append(slices.Clip(above), name)); ok {
			return append([]Step{{ref.Place, fmt.Sprintf("service:%s holds %s", name, ref.Text)}}, rest...), true
		}
	}
	return nil, false
}

// route is the approval by which a prefix or an address is reached: of several the
// longest, as routers choose.
func (x *Places) route(addr netip.Addr) *model.Route {
	var best *model.Route
	for i := range x.policy.Routes {
		r := &x.policy.Routes[i]
		if r.Prefix.Contains(addr) && (best == nil || r.Prefix.Bits() > best.Prefix.Bits()) {
			best = r
		}
	}
	return best
}

// allDefinitions are the texts of every step that says what a name means: by them
// two policies are compared, wherever their lines are.
func (x *Places) allDefinitions() map[string]bool {
	out := make(map[string]bool)
	for member, edges := range x.above {
		for _, e := range edges {
			out[membership(member, e).Text] = true
		}
	}
	p := x.policy
	for i := range p.Hosts {
		out[hostStep(&p.Hosts[i]).Text] = true
	}
	for i := range p.Postures {
		out[postureStep(&p.Postures[i]).Text] = true
	}
	for i := range p.Routes {
		out[routeStep(&p.Routes[i]).Text] = true
	}
	if p.Exit != nil {
		out[exitStep(p.Exit).Text] = true
	}
	for _, s := range p.Services {
		for _, ref := range s.Ports {
			out[fmt.Sprintf("service:%s holds %s", s.Name, ref.Text)] = true
		}
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		out[pinStep(n).Text] = true
		for _, r := range n.Tags {
			out[pinnedAs(n, r.Selector).Text] = true
		}
		if n.User != "" {
			out[pinnedAs(n, acl.Selector{Kind: acl.KindUser, Name: n.User}).Text] = true
		}
	}
	return out
}

// Moment is a time as people read it, in UTC: to the minute, or to the second
// where it is not a full minute.
func Moment(t time.Time) string {
	if t = t.UTC(); t.Second() != 0 {
		return t.Format("2006-01-02 15:04:05 UTC")
	}
	return t.Format("2006-01-02 15:04 UTC")
}

// placeLine is a place without its column, as people quote it.
func placeLine(p model.Place) string {
	p.Col = 0
	return strings.TrimSuffix(p.String(), ":0")
}
