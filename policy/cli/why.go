package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
)

const whyHelp = `Says whether FROM may reach TO on PORT. Where it may: which rule allows it, and how the rule selects both ends, each with its place. Where it may not: which rules come nearest, and what FROM is instead.

FROM and TO are a user's e-mail address, tag:NAME, node:NAME (a pinned node, or one of the inventory), group:NAME (any member), autogroup:member, autogroup:tagged or *; PORT is one port, as tcp/443, or icmp or proto/47.

Where FROM or TO are several nodes, the answer is about every pair of them. A user whom the policy does not mention is a node of any such user.

Exit codes: 0 allowed, 1 not allowed for all of them, 2 could not tell.

Example:

    policy why bob@acme.example tag:accounting tcp/80
`

type whyCmd struct {
	From      string `arg:"" help:"Who asks."`
	To        string `arg:"" help:"What is asked for."`
	Port      string `arg:"" help:"One port: tcp/443, icmp, proto/47."`
	Dir       string `default:"." placeholder:"DIR" help:"Directory of the policy (the current one)."`
	Rev       string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Inventory string `placeholder:"FILE" help:"Count the nodes of this inventory, too (\"sync inventory\" prints one)."`
	JSON      bool   `name:"json" help:"Write JSON."`
}

func (whyCmd) Help() string { return whyHelp }

func (c whyCmd) Run(e *env) error {
	var asked []acl.Selector
	for _, s := range []string{c.From, c.To} {
		sel, err := acl.ParseSelector(s)
		if err != nil {
			return fmt.Errorf("why: %w", err)
		}
		if sel.Kind == acl.KindSelf {
			return fmt.Errorf("why: %s is whoever asks; name the user", s)
		}
		asked = append(asked, sel)
	}
	ports, err := acl.ParsePorts(c.Port)
	if err != nil {
		return fmt.Errorf("why: %w", err)
	}
	target, err := single(ports)
	if err != nil {
		return fmt.Errorf("why: %w", err)
	}
	inv, err := readInventory(c.Inventory)
	if err != nil {
		return err
	}
	tree, err := readTree(c.Dir, c.Rev)
	if err != nil {
		return err
	}
	r, err := build.Check(e.ctx, build.Request{Tree: tree})
	if err != nil {
		return err
	}
	report, err := explain(r, inv, asked[0], asked[1], target)
	if err != nil {
		return err
	}
	if c.JSON {
		err = output.JSON(e.stdout, report)
	} else {
		err = e.text.Why(report)
	}
	if err == nil && report.AllowedPairs < report.Pairs {
		err = errReport
	}
	return err
}

// single is the one target of ports.
func single(p acl.Ports) (acl.Target, error) {
	switch {
	case p.Range == acl.RangePorts && p.First == p.Last:
		return acl.Target{Proto: p.Proto, Port: p.First}, nil
	case p.Range == acl.RangeEcho:
		return acl.Target{Proto: acl.ICMP, Echo: true}, nil
	case p.Range == acl.RangeProto:
		return acl.Target{Proto: p.Proto}, nil
	}
	return acl.Target{}, fmt.Errorf("%s is more than one port; ask about one", p)
}

// explain asks for every pair of nodes that the selectors select. The answer is
// about the plainest pair that is allowed, or else the plainest; how many of the
// others differ is said beside it.
func explain(r *build.Result, inv *reach.Inventory, from, to acl.Selector, target acl.Target) (output.Why, error) {
	nodes := reach.Nodes(inv, []acl.Selector{from, to}, r.Compiled)
	ends := [2][]reach.Node{}
	for i, sel := range []acl.Selector{from, to} {
		if err := known(r, inv, sel); err != nil {
			return output.Why{}, err
		}
		for _, n := range nodes {
			if r.Compiled.Selects(sel, n, r.At) {
				ends[i] = append(ends[i], n)
			}
		}
		if len(ends[i]) == 0 {
			return output.Why{}, fmt.Errorf("why: no node is %s under this policy", sel)
		}
		slices.SortStableFunc(ends[i], func(a, b reach.Node) int { return plainness(a, sel) - plainness(b, sel) })
	}
	out := output.Why{}
	var best *[2]reach.Node
	for _, f := range ends[0] {
		for _, t := range ends[1] {
			if f.Name != "" && f.Name == t.Name {
				continue // a node does not meet itself
			}
			out.Pairs++
			if best == nil {
				best = &[2]reach.Node{f, t}
			}
			if !r.Compiled.Judge(f, t, target, r.At).Allowed {
				if out.Except == "" {
					out.Except = f.String() + " to " + t.String()
				}
				continue
			}
			if out.AllowedPairs++; out.AllowedPairs == 1 {
				best = &[2]reach.Node{f, t}
			}
		}
	}
	if best == nil {
		return output.Why{}, fmt.Errorf("why: %s and %s are the same node", from, to)
	}
	out.Why = reach.Explain(r.Policy, r.Compiled, best[0], best[1], target, r.At)
	return out, nil
}

// known refuses a group, tag or node that neither the policy nor the inventory has.
// Users need not be mentioned to exist; one that differs by a few letters from one
// that is mentioned is a slip, though.
func known(r *build.Result, inv *reach.Inventory, sel acl.Selector) error {
	var names []string
	users := func(refs []model.Ref) {
		for _, ref := range refs {
			if ref.Selector.Kind == acl.KindUser {
				names = append(names, ref.Selector.Name)
			}
		}
	}
	kind := ""
	switch sel.Kind {
	case acl.KindGroup:
		kind = "group"
		for _, g := range r.Policy.Groups {
			names = append(names, g.Name)
		}
	case acl.KindTag:
		kind = "tag"
		for _, t := range r.Policy.Tags {
			names = append(names, t.Name)
		}
	case acl.KindUser:
		kind = "user"
		users(r.Policy.Admins)
		for _, t := range r.Policy.Tags {
			users(t.Owners)
		}
	case acl.KindNode:
		kind = "node"
	default:
		return nil
	}
	for _, n := range reach.Nodes(inv, nil, r.Compiled) {
		switch sel.Kind {
		case acl.KindTag:
			names = append(names, n.Tags...)
		case acl.KindUser:
			if n.User != "" && !n.Stranger {
				names = append(names, n.User)
			}
		case acl.KindNode:
			if n.Name != "" {
				names = append(names, n.Name)
			}
		}
	}
	if slices.Contains(names, sel.Name) {
		return nil
	}
	name := sel.Name
	if sel.Kind == acl.KindUser {
		// Of an address only what is before the @ is compared: domains are long,
		// and would make every colleague a neighbour.
		var at string
		name, at, _ = strings.Cut(sel.Name, "@")
		near := names[:0]
		for _, n := range names {
			if local, domain, _ := strings.Cut(n, "@"); domain == at {
				near = append(near, local)
			}
		}
		if hint := model.Nearest(name, near); hint != "" {
			return fmt.Errorf("why: unknown user %q; did you mean %q?", sel.Name, hint+"@"+at)
		}
		return nil
	}
	if hint := model.Nearest(name, names); hint != "" {
		return fmt.Errorf("why: unknown %s %q; did you mean %q?", kind, name, hint)
	}
	return fmt.Errorf("why: unknown %s %q", kind, name)
}

// plainness prefers the imagined node that is just what the selector says.
func plainness(n reach.Node, sel acl.Selector) int {
	switch {
	case n.Name == "" && strings.TrimPrefix(n.String(), "tag:") == sel.Name:
		return 0
	case n.Name == "" && !n.Stranger:
		return 1
	case !n.Stranger:
		return 2
	}
	return 3
}
