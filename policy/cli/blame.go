package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/history"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

const blameHelp = `Says which commit gave the access to TO on PORT that there is: of FROM, or of everybody who has it. For each: the commit since which every policy on the main line has given it, the lines that gave it, and who wrote these. Where access came and went before, the first commit ever that gave it is told, too.

Every policy on the way is asked about the same time, now or what --at says. A node reports nothing of itself unless the inventory or --posture says so. Access that is there at other hours only, or for nodes that report something else, is named and not followed. Commits that do not load are passed over. No more than --limit policies of different content are looked at; what is older than these is not looked at, and that is said.` + atHelp + `

Exit codes: 0 nobody has the access, 1 somebody has it, 2 could not tell.

Example:

    policy blame tag:accounting tcp/443 bob@acme.example
`

type blameCmd struct {
	To      string            `arg:"" help:"What is asked for."`
	Port    string            `arg:"" help:"One port: tcp/443, icmp, proto/47."`
	From    string            `arg:"" optional:"" help:"Who has the access; everybody if it is left out."`
	Posture map[string]string `placeholder:"ATTR=VALUE" help:"What nodes report of themselves: os=macos."`
	Limit   int               `default:"500" placeholder:"N" help:"Look at so many policies (500)."`
	asked
}

func (blameCmd) Help() string { return blameHelp }

func (c blameCmd) Run(e *env) error {
	q := history.Question{Limit: c.Limit, Posture: c.Posture}
	var err error
	if q.To, err = end("blame", c.To); err != nil {
		return err
	}
	if q.Target, err = port("blame", c.Port); err != nil {
		return err
	}
	if err := checkPosture("blame", c.Posture); err != nil {
		return err
	}
	if c.Limit < 1 {
		return fmt.Errorf("blame: --limit %d: want at least 1", c.Limit)
	}
	v, err := c.load(e)
	if err != nil {
		return err
	}
	sels := []acl.Selector{q.To}
	if c.From != "" {
		from, err := end("blame", c.From)
		if err != nil {
			return err
		}
		q.From = &from
		sels = append(sels, from)
	}
	for _, s := range sels {
		if err := v.known("blame", s); err != nil {
			return err
		}
	}
	if !v.repo.HasRevisions() {
		return fmt.Errorf("blame %s: %w", c.Dir, source.ErrNoRepository)
	}
	a, err := history.Trace(e.ctx, v.repo, v.Result, v.inventory, q)
	if err != nil {
		return err
	}
	report := blameReport(q, v.Result.At, a)
	if report.Conditional, err = v.conditional(q); err != nil {
		return err
	}
	if c.JSON {
		err = output.JSON(e.stdout, report)
	} else {
		err = e.text.Blame(report)
	}
	if err == nil && len(a.Spans) > 0 {
		err = errReport
	}
	return err
}

func blameReport(q history.Question, at time.Time, a *history.Answer) output.Blame {
	out := output.Blame{
		To: q.To.String(), Port: q.Target.String(), At: at.Format(time.RFC3339), Since: []output.Since{},
		Commits: a.Commits, Policies: a.Policies, Passed: a.Passed,
	}
	if a.Cut != nil {
		out.Cut = a.Cut.Hash
	}
	for _, s := range a.Spans {
		since := output.Since{From: s.From, To: s.To, Given: given(s.Since), Open: s.Open, Cause: s.Causes}
		if since.Cause == nil {
			since.Cause = []reach.Cause{}
		}
		if s.First != nil {
			g := given(*s.First)
			since.First = &g
		}
		out.Since = append(out.Since, since)
	}
	return out
}

// conditional is the access that a question of blame is about and that is not there
// now, but at other hours, or for nodes that report something else.
func (v *view) conditional(q history.Question) (out []output.Access, err error) {
	ends := compile.NewEnds(v.Policy)
	ask := reach.Question{Ports: []acl.Ports{portsOf(q.Target)}, At: v.Result.At}
	if ask.To, err = ends.Refs([]model.Ref{{Selector: q.To}}); err != nil {
		return nil, err
	}
	sels := []acl.Selector{q.To}
	if q.From != nil {
		if ask.From, err = ends.Refs([]model.Ref{{Selector: *q.From}}); err != nil {
			return nil, err
		}
		sels = append(sels, *q.From)
	}
	x := reach.NewExplainer(v.Policy, v.Compiled, v.inventory, sels...)
	places := reach.NewPlaces(v.Policy)
	for _, f := range reach.NewWorld(v.Compiled, v.inventory, []reach.Question{ask}).Reachable(ask) {
		if len(f.When) == 0 && len(f.Posture) == 0 || v.holds(x, f.Sample, q) {
			continue
		}
		out = append(out, access(f, places))
	}
	return out, nil
}

// holds reports whether a sample of some access has it now, reporting what a
// question says or else what the inventory does.
func (v *view) holds(x *reach.Explainer, p reach.Pair, q history.Question) bool {
	at := v.Result.At
	for _, f := range parties(x, p.From, at) {
		if q.Posture != nil {
			f.Reports = q.Posture
		}
		for _, t := range parties(x, p.To, at) {
			if x.Judge(f, t, q.Target, at).Allowed {
				return true
			}
		}
	}
	return false
}

// parties are the ends that an end of a sample may be.
func parties(x *reach.Explainer, n reach.Node, at time.Time) []reach.Party {
	switch {
	case n.Internet:
		return x.Parties(acl.Selector{Kind: acl.KindInternet}, at)
	case n.Address.IsValid():
		return x.Parties(acl.Selector{Kind: acl.KindPrefix, Name: n.Address.String()}, at)
	case n.Real && n.Name != "":
		if known := x.Parties(acl.Selector{Kind: acl.KindNode, Name: n.Name}, at); len(known) > 0 {
			return known
		}
	}
	return []reach.Party{{Node: n}}
}

// portsOf is one target as rules write it.
func portsOf(t acl.Target) acl.Ports {
	switch {
	case t.Echo:
		return acl.Ports{Range: acl.RangeEcho}
	case t.Port != 0:
		return acl.Ports{Range: acl.RangePorts, Proto: t.Proto, First: t.Port, Last: t.Port}
	}
	return acl.Ports{Range: acl.RangeProto, Proto: t.Proto}
}

func given(c source.Commit) output.Given {
	if c.Hash == "" {
		return output.Given{}
	}
	return output.Given{Commit: c.Hash, Author: c.Author + " <" + c.Email + ">", When: reach.Moment(c.When), Subject: firstLine(c.Message)}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
