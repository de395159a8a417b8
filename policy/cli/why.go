package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
)

const whyHelp = `Says whether FROM may reach TO on PORT. Where it may: which rule allows it, and how the rule selects both ends, each with its place. Where it may not: which rules come nearest, each lacking one thing, and what FROM is instead.

FROM and TO are a user's e-mail address, tag:NAME, node:NAME (a pinned node, or one of the inventory), group:NAME (any member), autogroup:member, autogroup:tagged or *; or what is behind a node: host:NAME, an address or a prefix that a route leads to, and for TO autogroup:internet. PORT is one port, as tcp/443, or icmp or proto/47.

Where FROM or TO are several nodes, the answer is about every pair of them. A user whom the policy does not mention is a node of any such user. A node reports nothing of itself unless the inventory or --posture says so.` + atHelp + `

Exit codes: 0 allowed, 1 not allowed for all of them, 2 could not tell.

Example:

    policy why bob@acme.example tag:accounting tcp/80
`

type whyCmd struct {
	From    string            `arg:"" help:"Who asks."`
	To      string            `arg:"" help:"What is asked for."`
	Port    string            `arg:"" help:"One port: tcp/443, icmp, proto/47."`
	Posture map[string]string `placeholder:"ATTR=VALUE" help:"What FROM reports of itself: os=macos."`
	asked
}

func (whyCmd) Help() string { return whyHelp }

func (c whyCmd) Run(e *env) error {
	from, err := end("why", c.From)
	if err != nil {
		return err
	}
	to, err := end("why", c.To)
	if err != nil {
		return err
	}
	target, err := port("why", c.Port)
	if err != nil {
		return err
	}
	if err := checkPosture("why", c.Posture); err != nil {
		return err
	}
	v, err := c.load(e)
	if err != nil {
		return err
	}
	report, err := v.why(from, to, target, c.Posture)
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

// end reads a selector of what can be asked about.
func end(verb, text string) (acl.Selector, error) {
	sel, err := acl.ParseSelector(text)
	switch {
	case err != nil && acl.CheckName("name", text) == nil:
		return sel, fmt.Errorf(`%[1]s: %[2]q is no selector; write tag:%[2]s, node:%[2]s, group:%[2]s or host:%[2]s, or a user's e-mail address`, verb, text)
	case err != nil && strings.Contains(text, "*") && strings.Contains(text, "@"):
		return sel, fmt.Errorf("%s: %w; ask about a group or autogroup:member", verb, err)
	case err != nil:
		return sel, fmt.Errorf("%s: %w", verb, err)
	case sel.Kind == acl.KindSelf:
		return sel, fmt.Errorf("%s: %s is whoever asks; name the user", verb, text)
	case sel.Kind == acl.KindClaim:
		return sel, fmt.Errorf("%s: %s is nobody by itself; name a group that holds it", verb, text)
	}
	return sel, nil
}

// checkPosture checks what nodes are said to report.
func checkPosture(verb string, posture map[string]string) error {
	for attr, value := range posture {
		if err := errors.Join(acl.CheckAttr(attr), acl.CheckAttrValue(value)); err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
	}
	return nil
}

// port reads one target.
func port(verb, text string) (acl.Target, error) {
	p, err := ports(verb, text)
	if err != nil {
		return acl.Target{}, err
	}
	t, err := single(p)
	if err != nil {
		return acl.Target{}, fmt.Errorf("%s: %w", verb, err)
	}
	return t, nil
}

// ports reads what may be several.
func ports(verb, text string) (acl.Ports, error) {
	p, err := acl.ParsePorts(text)
	if err == nil {
		return p, nil
	}
	hint := ""
	if near := model.NearestPorts(text); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return p, fmt.Errorf("%s: %w%s", verb, err, hint)
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

// why asks for every pair of ends that the selectors select. The answer is about
// the plainest pair that is allowed, or else the plainest; how many of the others
// differ is said beside it.
func (v *view) why(from, to acl.Selector, target acl.Target, posture map[string]string) (output.Why, error) {
	x := reach.NewExplainer(v.Policy, v.Compiled, v.inventory, from, to)
	ends := [2][]reach.Party{}
	for i, sel := range []acl.Selector{from, to} {
		if err := v.known("why", sel); err != nil {
			return output.Why{}, err
		}
		if ends[i] = x.Parties(sel, v.Result.At); len(ends[i]) == 0 {
			return output.Why{}, fmt.Errorf("why: no node is %s under this policy", sel)
		}
	}
	if posture != nil {
		for i := range ends[0] {
			ends[0][i].Reports = posture
		}
	}
	out := output.Why{}
	var best *[2]reach.Party
	for _, pair := range x.Pairs(ends[0], ends[1], v.Result.At) {
		out.Pairs += pair.Count
		if best == nil {
			best = &[2]reach.Party{pair.From, pair.To}
		}
		if !x.Judge(pair.From, pair.To, target, v.Result.At).Allowed {
			if out.Except == "" {
				out.Except = pair.From.String() + " to " + pair.To.String()
			}
			continue
		}
		if out.AllowedPairs == 0 {
			best = &[2]reach.Party{pair.From, pair.To}
		}
		out.AllowedPairs += pair.Count
	}
	if best == nil {
		return output.Why{}, fmt.Errorf("why: %s and %s are the same node", from, to)
	}
	out.Why = x.Explain(best[0], best[1], target, v.Result.At)
	if v.instant || v.Tree.Commit != nil {
		out.Why.At = v.Result.At
	}
	return out, nil
}

// known refuses a group, tag, host or node that neither the policy nor the
// inventory has. Users need not be mentioned to exist; one that differs by a few
// letters from one that is mentioned is a slip, though.
func (v *view) known(verb string, sel acl.Selector) error {
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
		for _, g := range v.Policy.Groups {
			names = append(names, g.Name)
		}
	case acl.KindTag:
		kind = "tag"
		for _, t := range v.Policy.Tags {
			names = append(names, t.Name)
		}
	case acl.KindHost:
		kind = "host"
		for _, h := range v.Policy.Hosts {
			names = append(names, h.Name)
		}
	case acl.KindUser:
		kind = "user"
		users(v.Policy.Admins)
		for _, t := range v.Policy.Tags {
			users(t.Owners)
		}
	case acl.KindNode:
		kind = "node"
	default:
		return nil
	}
	for _, n := range reach.Nodes(v.inventory, nil, v.Compiled) {
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
			return fmt.Errorf("%s: unknown user %q; did you mean %q?", verb, sel.Name, hint+"@"+at)
		}
		return nil
	}
	if hint := model.Nearest(name, names); hint != "" {
		return fmt.Errorf("%s: unknown %s %q; did you mean %q?", verb, kind, name, hint)
	}
	return fmt.Errorf("%s: unknown %s %q", verb, kind, name)
}
