// Package history says since when a policy has given access, and which commit,
// author and line gave it.
//
// What is asked about is pairs of ends that have the access now. The main line of
// the policy's repository is walked from the revision that is asked, the newest
// commit first: what stood on the branch, merge by merge. Every policy on the way
// is asked the same question about the same instant, so that a rule that ended, or
// holds at some hours, counts as it does then and not as it did on the day of the
// commit.
//
// A pair has access since the oldest commit from which on every policy gives it,
// without interruption. Access may have come and gone before: the first commit
// ever that gave it, at that instant or at the commit's own time, is told where it
// is another one. That is also why the line is walked and not bisected.
//
// Commits whose policy is made of the same files are asked once. Commits that do
// not load were never enforced and are passed over. A walk looks at no more than a
// given number of policies, and says where it ended.
package history

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

// MaxPairs is how many pairs of ends one question may be about: everybody in a
// large company, and one destination.
const MaxPairs = 20_000

// DefaultLimit is how many policies are asked at most, unless the question says:
// each takes about as long as "policy check".
const DefaultLimit = 500

// A Question is about access now.
type Question struct {
	From   *acl.Selector // nil: everybody
	To     acl.Selector
	Target acl.Target
	Limit  int // of policies; zero is DefaultLimit

	// Posture is what every source reports; nil: what the inventory says, or nothing.
	Posture map[string]string
}

// An Answer is the history of all pairs that have the access.
type Answer struct {
	Spans    []Span
	Commits  int            // of the main line that were looked at
	Policies int            // among them, of different files, that were asked
	Passed   int            // commits that were passed over
	Cut      *source.Commit // the oldest that was looked at, where older ones were not
}

// A Span is pairs that have access since the same commit, for the same reasons.
type Span struct {
	From, To []string       // in the policy's words
	Since    source.Commit  // zero where no commit gives it: the directory does
	Open     bool           // it may be older: the walk ended
	First    *source.Commit // that ever gave it, where it is not Since
	Causes   []reach.Cause  // with the commit and author of each line
}

// A pair is two ends, as all policies know them.
type pair struct {
	from, to reach.Party

	ended bool // an older policy does not give it
	since int  // index of the commit; -1: none gives it
	first int
	cause string // to tell spans apart
	list  []reach.Cause
}

// Trace answers. Head is what is asked now, built from a commit of the repository
// or from its directory.
func Trace(ctx context.Context, repo *source.Repository, head *build.Result, inv *reach.Inventory, q Question) (*Answer, error) {
	if q.Limit <= 0 {
		q.Limit = DefaultLimit
	}
	rev := "HEAD"
	if c := head.Tree.Commit; c != nil {
		rev = c.Hash
	}
	w := &walk{ctx: ctx, repo: repo, inventory: inv, q: q, at: head.At, known: map[key.Hash]*asked{}}
	now := w.explainer(head)
	if err := w.find(now); err != nil {
		return nil, err
	}
	if len(w.pairs) == 0 {
		return &Answer{}, nil
	}
	for c, err := range repo.Mainline(rev) {
		if err != nil {
			return nil, err
		}
		if done, err := w.visit(c); err != nil || done {
			if err != nil {
				return nil, err
			}
			break
		}
	}
	return w.answer(now)
}

type walk struct {
	ctx       context.Context
	repo      *source.Repository
	inventory *reach.Inventory
	q         Question
	at        time.Time

	pairs   []pair
	commits []source.Commit // looked at, the newest first
	known   map[key.Hash]*asked
	newer   *asked // the policy of the commit before this one in the walk
	newerAt int    // its index
	passed  int
	cut     bool
}

// An asked policy is what became of all pairs under it.
type asked struct {
	fails     bool // it does not load
	explainer *reach.Explainer
	allows    []bool // at the instant
}

func (w *walk) explainer(r *build.Result) *reach.Explainer {
	var sels []acl.Selector
	if w.q.From != nil {
		sels = append(sels, *w.q.From)
	}
	return reach.NewExplainer(r.Policy, r.Compiled, w.inventory, append(sels, w.q.To)...)
}

// everyone are the selectors that together select every end.
var everyone = []string{"*", "0.0.0.0/0", "::/0"}

// find lists the pairs that have access now.
func (w *walk) find(x *reach.Explainer) error {
	var from []reach.Party
	if w.q.From != nil {
		from = x.Parties(*w.q.From, w.at)
	} else {
		for _, s := range everyone {
			sel, err := acl.ParseSelector(s)
			if err != nil {
				return err
			}
			from = append(from, x.Parties(sel, w.at)...)
		}
	}
	if w.q.Posture != nil {
		for i := range from {
			from[i].Reports = w.q.Posture
		}
	}
	to := x.Parties(w.q.To, w.at)
	seen := map[string]bool{}
	for _, f := range from {
		for _, t := range to {
			if f.Node.Name != "" && f.Node.Name == t.Node.Name && f.Via == acl.Own && t.Via == acl.Own {
				continue
			}
			id := identity(f) + "\n" + identity(t)
			if seen[id] || !x.Judge(f, t, w.q.Target, w.at).Allowed {
				continue
			}
			seen[id] = true
			if len(w.pairs) == MaxPairs {
				return fmt.Errorf("blame: more than %d pairs of nodes have this access; ask about fewer", MaxPairs)
			}
			w.pairs = append(w.pairs, pair{from: f, to: t, since: -1, first: -1})
		}
	}
	return nil
}

// identity is what makes an end the same in every policy. Behind which node an
// address is may change.
func identity(p reach.Party) string {
	if p.Via != acl.Own {
		return fmt.Sprintf("%d %s", p.Via, p.Addr)
	}
	return fmt.Sprintf("%s|%s|%s|%s", p.Node.Name, p.Node.User, strings.Join(p.Node.Tags, "+"), p.Addr)
}

// then are the ends that an end of now is under another policy.
func then(x *reach.Explainer, p reach.Party, at time.Time) []reach.Party {
	switch p.Via {
	case acl.Subnet:
		return x.Parties(acl.Selector{Kind: acl.KindPrefix, Name: p.Addr.String()}, at)
	case acl.Exit:
		return x.Parties(acl.Selector{Kind: acl.KindInternet}, at)
	}
	return []reach.Party{p}
}

// judge asks about one pair, and returns the ends that have access or, where none
// do, some.
func (w *walk) judge(x *reach.Explainer, p *pair, at time.Time) (from, to reach.Party, allowed bool) {
	for i, f := range then(x, p.from, at) {
		f.Reports = p.from.Reports
		for j, t := range then(x, p.to, at) {
			if i == 0 && j == 0 {
				from, to = f, t
			}
			if x.Judge(f, t, w.q.Target, at).Allowed {
				return f, t, true
			}
		}
	}
	return from, to, false
}

// visit takes up one more commit, older than all before.
func (w *walk) visit(c source.Commit) (done bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	id, err := w.repo.PolicyHash(c)
	var a *asked
	if err != nil {
		a = &asked{fails: true}
	} else if a = w.known[id]; a == nil {
		if len(w.known) == w.q.Limit {
			w.cut = true
			return true, nil
		}
		if a, err = w.ask(c); err != nil {
			return false, err
		}
		w.known[id] = a
	}
	at := len(w.commits)
	w.commits = append(w.commits, c)
	if a.fails {
		w.passed++
		return false, nil
	}
	for i := range w.pairs {
		p := &w.pairs[i]
		if a.allows[i] {
			p.first = at
		} else if _, _, own := w.judge(a.explainer, p, c.When); own {
			p.first = at // it did, at its own time
		}
		switch {
		case p.ended:
		case a.allows[i]:
			p.since = at
		default:
			p.ended = true
			w.explain(p, a.explainer)
		}
	}
	w.newer, w.newerAt = a, at
	return false, nil
}

// ask builds the policy of a commit and asks it about all pairs.
func (w *walk) ask(c source.Commit) (*asked, error) {
	tree, err := w.repo.Tree(c.Hash)
	if err == nil {
		var r *build.Result
		if r, err = build.Check(w.ctx, build.Request{Tree: tree}); err == nil {
			a := &asked{explainer: w.explainer(r), allows: make([]bool, len(w.pairs))}
			for i := range w.pairs {
				_, _, a.allows[i] = w.judge(a.explainer, &w.pairs[i], w.at)
			}
			return a, nil
		}
	}
	if _, fault := build.AtFault(err); !fault {
		return nil, err
	}
	return &asked{fails: true}, nil
}

// explain finds the places by which the newer policy gives what the older one, nil
// at the beginning, does not.
func (w *walk) explain(p *pair, older *reach.Explainer) {
	if w.newer == nil {
		return
	}
	from, to, _ := w.judge(w.newer.explainer, p, w.at)
	fromWas, toWas := from, to
	if older != nil {
		fromWas, toWas, _ = w.judge(older, p, w.at)
	}
	p.list = reach.NewTracerOf(older, w.newer.explainer, w.at).Gave(from, to, fromWas, toWas, w.q.Target)
	var b strings.Builder
	for _, c := range p.list {
		fmt.Fprintln(&b, c.Place)
	}
	p.cause = b.String()
}

// answer gathers pairs into spans.
func (w *walk) answer(now *reach.Explainer) (*Answer, error) {
	a := &Answer{Commits: len(w.commits), Policies: len(w.known), Passed: w.passed}
	if w.cut && len(w.commits) > 0 {
		a.Cut = &w.commits[len(w.commits)-1]
	}
	type id struct {
		since, first int
		to, cause    string
		open         bool
	}
	index := map[id]int{}
	var members [][]pair
	var order []id
	for i := range w.pairs {
		p := &w.pairs[i]
		if !p.ended && p.list == nil {
			w.explain(p, nil)
		}
		k := id{p.since, p.first, identity(p.to), p.cause, !p.ended && w.cut}
		n, ok := index[k]
		if !ok {
			n = len(members)
			index[k] = n
			members = append(members, nil)
			order = append(order, k)
		}
		members[n] = append(members[n], *p)
	}
	for n, list := range members {
		k := order[n]
		s := Span{Open: k.open, Causes: list[0].list}
		if k.since >= 0 {
			s.Since = w.commits[k.since]
		}
		if k.first >= 0 && k.first != k.since {
			s.First = &w.commits[k.first]
		}
		var from []reach.Party
		for _, p := range list {
			from = append(from, p.from)
		}
		s.From, s.To = now.Words(from, w.at), []string{list[0].to.String()}
		if s.Open {
			s.Causes = nil
		}
		if err := w.origins(&s); err != nil {
			return nil, err
		}
		a.Spans = append(a.Spans, s)
	}
	a.Spans = merge(a.Spans)
	slices.SortStableFunc(a.Spans, func(x, y Span) int { return y.Since.When.Compare(x.Since.When) })
	return a, nil
}

// merge joins spans that differ in their destinations only.
func merge(in []Span) (out []Span) {
	for _, s := range in {
		i := slices.IndexFunc(out, func(o Span) bool {
			return o.Since.Hash == s.Since.Hash && o.Open == s.Open && slices.Equal(o.From, s.From) && slices.Equal(o.Causes, s.Causes) &&
				(o.First == nil) == (s.First == nil) && (o.First == nil || o.First.Hash == s.First.Hash)
		})
		if i < 0 {
			out = append(out, s)
			continue
		}
		out[i].To = append(out[i].To, s.To...)
	}
	return out
}

// origins finds the commit and the author of each line that gave access: the merge
// that brought it to the main line is seldom who wrote it.
func (w *walk) origins(s *Span) error {
	if s.Since.Hash == "" {
		return nil
	}
	b, err := w.repo.Blamer(s.Since.Hash)
	if err != nil {
		return err
	}
	s.Causes = slices.Clone(s.Causes)
	for i := range s.Causes {
		if o, ok := Origin(b, s.Causes[i].Place); ok {
			s.Causes[i].Commit, s.Causes[i].Author = o.Commit, o.Author+" <"+o.Email+">"
		}
	}
	return nil
}

// Origin is who last changed a place, written file:line. What cannot be traced, as
// a line of a bulk list, has none.
func Origin(b *source.Blamer, place string) (source.Origin, bool) {
	i := strings.LastIndexByte(place, ':')
	if b == nil || i < 0 {
		return source.Origin{}, false
	}
	line := 0
	for _, c := range []byte(place[i+1:]) {
		if c < '0' || c > '9' || line > 1<<24 {
			return source.Origin{}, false
		}
		line = line*10 + int(c-'0')
	}
	o, err := b.LastChanged(place[:i], line)
	return o, err == nil
}
