package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Why is the answer to "may FROM reach TO on PORT, and why".
type Why struct {
	Allowed bool      `json:"allowed"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Port    string    `json:"port"`
	Until   time.Time `json:"until,omitzero"`  // when it ends
	Rule    string    `json:"rule,omitempty"`  // that allows it
	Chain   []Step    `json:"chain,omitempty"` // how the rule selects both ends
	Misses  []Miss    `json:"misses,omitempty"`
	Facts   []Step    `json:"facts,omitempty"` // where the source is said to be who it is
}

// A Miss is a rule that allows all of a request but one thing.
type Miss struct {
	Rule  string      `json:"rule"`
	Place model.Place `json:"place"`
	Text  string      `json:"text"` // what it is for instead
}

// maxMisses is how many of the nearest misses are worth a person's time.
const maxMisses = 3

// Explain answers for one pair of nodes and one target.
func Explain(p *model.Policy, c *Compiled, from, to Node, target acl.Target, at time.Time) Why {
	w := Why{From: from.String(), To: to.String(), Port: target.String()}
	v := c.Judge(from, to, target, at)
	if v.Allowed {
		w.Allowed, w.Rule, w.Until = true, v.Rule, v.Until
		r, _ := rule(p, v.Rule)
		w.Chain = append(w.Chain, Step{r.Place, fmt.Sprintf("rule %q", r.Name)})
		w.Chain = append(w.Chain, selected(p, c, r.From, from, to, at, "from")...)
		w.Chain = append(w.Chain, selected(p, c, r.To, to, from, at, "to")...)
		for _, a := range r.Allow {
			if opens(p, a.Text, target, nil) {
				w.Chain = append(w.Chain, Step{a.Place, "allows " + a.Text})
			}
		}
		return w
	}
	for _, r := range p.Rules {
		if m, ok := miss(p, c, r, from, to, target, at); ok {
			w.Misses = append(w.Misses, m)
		}
	}
	slices.SortStableFunc(w.Misses, func(a, b Miss) int { return cmp.Compare(a.Rule, b.Rule) })
	w.Misses = w.Misses[:min(len(w.Misses), maxMisses)]
	for _, pr := range from.principals() {
		for _, m := range c.Principals[pr] {
			for _, s := range GroupPath(p, pr, m.Group, at) {
				if !slices.Contains(w.Facts, s) {
					w.Facts = append(w.Facts, s)
				}
			}
		}
	}
	return w
}

// opens reports whether a port as written, or the service that it names, contains
// the target. The services on the way to here end what goes round.
func opens(p *model.Policy, text string, target acl.Target, above []string) bool {
	name, ok := strings.CutPrefix(text, "service:")
	if !ok {
		ports, err := acl.ParsePorts(text)
		return err == nil && ports.Contains(target)
	}
	i := slices.IndexFunc(p.Services, func(s model.Service) bool { return s.Name == name })
	if i < 0 || slices.Contains(above, name) {
		return false
	}
	return slices.ContainsFunc(p.Services[i].Ports, func(ref model.PortRef) bool {
		return opens(p, ref.Text, target, append(slices.Clip(above), name))
	})
}

// selected is how one side of a rule selects a node: the first reference that
// does, and the way into the group where it is one.
func selected(p *model.Policy, c *Compiled, refs []model.Ref, n, other Node, at time.Time, side string) []Step {
	selecting := matching(c, refs, n, other, at)
	if len(selecting) == 0 {
		return nil
	}
	ref := selecting[0]
	steps := []Step{{ref.Place, fmt.Sprintf("%s %s", side, ref.Selector)}}
	if ref.Selector.Kind == acl.KindGroup {
		for _, pr := range n.principals() {
			if way := GroupPath(p, pr, ref.Selector.Name, at); way != nil {
				return append(steps, way...)
			}
		}
	}
	return steps
}

// miss says in what one thing a rule does not allow the request, if it is one.
func miss(p *model.Policy, c *Compiled, r model.Rule, from, to Node, target acl.Target, at time.Time) (Miss, bool) {
	var lacks []string
	if len(matching(c, r.From, from, to, at)) == 0 {
		lacks = append(lacks, "is for "+refText(r.From))
	}
	if len(matching(c, r.To, to, from, at)) == 0 {
		lacks = append(lacks, "is to "+refText(r.To))
	}
	if !slices.ContainsFunc(r.Ports, func(x acl.Ports) bool { return x.Contains(target) }) {
		var ports []string
		for _, a := range r.Allow {
			ports = append(ports, a.Text)
		}
		lacks = append(lacks, "is for "+strings.Join(ports, ", "))
	}
	if !r.Until.IsZero() && !at.Before(r.Until) {
		lacks = append(lacks, "ended "+Moment(r.Until))
	}
	if len(lacks) != 1 {
		return Miss{}, false
	}
	return Miss{r.Name, r.Place, lacks[0]}, true
}

func refText(refs []model.Ref) string {
	var out []string
	for _, r := range refs {
		out = append(out, r.Selector.String())
	}
	return strings.Join(out, ", ")
}
