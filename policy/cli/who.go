package cli

import (
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
)

const whoHelp = `Says who reaches TO, on PORT or on which ports: in the policy's words, with the rules that give it and their places. Nobody else does.

TO is a selector, as in a rule: a user's e-mail address, group:NAME, tag:NAME, node:NAME, host:NAME, an address, a prefix, autogroup:internet and so on. Access at some hours, from nodes that report something, or that ends, is said to be so. Without PORT it is said, too, which capabilities are told to TO.` + atHelp + `

Exit codes: 0 nobody reaches it, 1 somebody does, 2 could not tell.

Example:

    policy who tag:accounting tcp/443
`

const whatHelp = `Says what FROM reaches, and on which ports: in the policy's words, with the rules that give it and their places. It reaches nothing else.

FROM is a selector, as in a rule: a user's e-mail address, group:NAME, tag:NAME, node:NAME, an address behind a router and so on. Where it is several nodes, what is said of a part of them names the part. Without PORT it is said, too, which capabilities are told of FROM.` + atHelp + `

Exit codes: 0 it reaches nothing, 1 it reaches something, 2 could not tell.

Example:

    policy what bob@acme.example
`

type whoCmd struct {
	To   string `arg:"" help:"What is asked for."`
	Port string `arg:"" optional:"" help:"Ports: tcp/443, tcp/8000-8100, icmp; all of them if it is left out."`
	asked
}

func (whoCmd) Help() string { return whoHelp }

func (c whoCmd) Run(e *env) error {
	return c.reached(e, "who", c.To, c.Port)
}

type whatCmd struct {
	From string `arg:"" help:"Who asks."`
	Port string `arg:"" optional:"" help:"Ports: tcp/443, tcp/8000-8100, icmp; all of them if it is left out."`
	asked
}

func (whatCmd) Help() string { return whatHelp }

func (c whatCmd) Run(e *env) error {
	return c.reached(e, "what", c.From, c.Port)
}

// reached answers both: which ends are asked about is all that differs.
func (f asked) reached(e *env, verb, subject, portText string) error {
	sel, err := end(verb, subject)
	if err != nil {
		return err
	}
	q := reach.Question{Capabilities: portText == "", Ends: true}
	if portText != "" {
		p, err := ports(verb, portText)
		if err != nil {
			return err
		}
		q.Ports = []acl.Ports{p}
	}
	v, err := f.load(e)
	if err != nil {
		return err
	}
	if err := v.known(verb, sel); err != nil {
		return err
	}
	refs, err := compile.NewEnds(v.Policy).Refs([]model.Ref{{Selector: sel}})
	if err != nil {
		return err
	}
	q.At, q.Fixed = v.Result.At, v.instant
	if verb == "who" {
		q.To = refs
	} else {
		q.From = refs
	}
	w := reach.NewWorld(v.Compiled, v.inventory, []reach.Question{q})
	places := reach.NewPlaces(v.Policy)
	out := output.Reached{
		Question: verb, Subject: sel.String(), Port: portText, Policy: v.Tree.Label, At: v.Result.At.Format(time.RFC3339),
		Access: []output.Access{}, Assumptions: w.Assumptions(q),
	}
	for _, found := range w.Reachable(q) {
		out.Access = append(out.Access, access(found, places))
	}
	if f.JSON {
		err = output.JSON(e.stdout, out)
	} else {
		err = e.text.Reached(out)
	}
	if err == nil && len(out.Access) > 0 {
		err = errReport
	}
	return err
}

// access is a finding with the places of its rules.
func access(f reach.Finding, places *reach.Places) output.Access {
	a := output.Access{
		From: f.From, To: f.To, Ports: f.Ports, People: f.People, Nodes: f.Nodes,
		When: f.When, Posture: f.Posture, Until: f.Until, Capabilities: f.Capabilities, Rules: []output.RuleRef{},
	}
	for _, r := range f.Rules {
		a.Rules = append(a.Rules, output.RuleRef{Rule: r, Place: places.Rule(r)})
	}
	return a
}
