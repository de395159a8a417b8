package reach

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// forever is an end that does not come; other ends are Unix seconds.
const forever = math.MaxInt64

func unix(t time.Time) int64 {
	if t.IsZero() {
		return forever
	}
	return t.Unix()
}

func moment(end int64) time.Time {
	if end == forever {
		return time.Time{}
	}
	return time.Unix(end, 0).UTC()
}

// week is the length of a week in minutes.
const week = 7 * 24 * 60

// A span is a part of the week, from Sunday midnight, by the wall clock of a zone,
// with an end.
type span struct {
	from, to int16 // minutes; to is not in it
	until    int64
}

// A term is when sources that meet a posture have access: in the spans, by the
// clock of a zone. The zone "" is that of spans which are the whole week.
type term struct {
	posture acl.Posture // nil: whatever is reported
	key     string      // of the posture
	zone    string
	spans   []span // rising, not empty, not touching where the ends are equal
}

// A cond is the number of a condition under which there is access: a union of
// terms in a form of which each meaning has one, as far as terms of different zones
// or postures do not add up to a third.
type cond int32

const (
	never  cond = 0
	always cond = 1
)

// conds numbers conditions.
type conds struct {
	mu    sync.Mutex
	list  [][]term
	parts map[cond][]cond // of those that are not brought into one form, rising
	byKey map[string]cond
	sums  map[[2]cond]cond
	same  map[[2]cond]bool
}

func newConds() *conds {
	c := &conds{byKey: map[string]cond{}, sums: map[[2]cond]cond{}, same: map[[2]cond]bool{}, parts: map[cond][]cond{}}
	c.put(nil)
	c.put([]term{{spans: []span{{0, week, forever}}}})
	return c
}

func (c *conds) put(terms []term) cond {
	var k strings.Builder
	for _, t := range terms {
		fmt.Fprintf(&k, "%s|%s", t.key, t.zone)
		for _, s := range t.spans {
			fmt.Fprintf(&k, " %d-%d %d", s.from, s.to, s.until)
		}
		k.WriteByte('\n')
	}
	if id, ok := c.byKey[k.String()]; ok {
		return id
	}
	id := cond(len(c.list))
	c.list = append(c.list, terms)
	c.byKey[k.String()] = id
	return id
}

// mostTerms is how many terms are brought into one form, which takes a look at each
// pair of them. A grant with sixteen hours in as many zones and sixteen postures has
// half as many. A union of more is kept as the conditions that it is made of: two
// that say the same may then have two numbers, and count as different. Tests make
// it less.
var mostTerms = 512

// join numbers a union of conditions that may be too many for one form. The lock is
// held.
func (c *conds) join(a, b cond) cond {
	if c.parts[a] == nil && c.parts[b] == nil && len(c.list[a])+len(c.list[b]) <= mostTerms {
		return c.put(normal(slices.Concat(c.list[a], c.list[b])))
	}
	var all []cond
	for _, id := range [2]cond{a, b} {
		if c.parts[id] != nil {
			all = append(all, c.parts[id]...)
		} else {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	k := fmt.Sprint(all)
	id, ok := c.byKey[k]
	if !ok {
		id = cond(len(c.list))
		c.list = append(c.list, nil)
		c.parts[id] = all
		c.byKey[k] = id
	}
	return id
}

func (c *conds) terms(id cond) []term {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []term
	for _, part := range c.parts[id] {
		out = append(out, c.list[part]...)
	}
	if out == nil {
		out = c.list[id]
	}
	return out
}

// of is the condition of a grant alone.
func (c *conds) of(g *acl.Grant) cond {
	if g.Until.IsZero() && len(g.Hours) == 0 && len(g.Posture) == 0 {
		return always
	}
	byZone := map[string][]bool{}
	for _, w := range g.Hours {
		if byZone[w.Zone] == nil {
			byZone[w.Zone] = make([]bool, week)
		}
		paint(byZone[w.Zone], w)
	}
	if len(g.Hours) == 0 {
		byZone[""] = slices.Repeat([]bool{true}, week)
	}
	postures := []acl.Posture(g.Posture)
	if len(postures) == 0 {
		postures = []acl.Posture{nil}
	}
	var out []term
	for _, p := range postures {
		for zone, minutes := range byZone {
			t := term{posture: p, key: postureKey(p), zone: zone}
			for i := 0; i < week; i++ {
				if !minutes[i] {
					continue
				}
				j := i
				for j < week && minutes[j] {
					j++
				}
				t.spans = append(t.spans, span{int16(i), int16(j), unix(g.Until)})
				i = j
			}
			if len(t.spans) > 0 {
				out = append(out, t)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.put(normal(out))
}

// paint marks the minutes of a window.
func paint(minutes []bool, w acl.Window) {
	for d := range 7 {
		if !w.Days.Has(time.Weekday(d)) {
			continue
		}
		end := int(w.End)
		if w.Start >= w.End {
			end += 1440
		}
		for m := int(w.Start); m < end; m++ {
			minutes[(d*1440+m)%week] = true
		}
	}
}

// union is the condition that one or the other holds.
func (c *conds) union(a, b cond) cond {
	switch {
	case a == b, b == never, a == always:
		return a
	case a == never, b == always:
		return b
	case a > b:
		a, b = b, a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, ok := c.sums[[2]cond{a, b}]
	if !ok {
		sum = c.join(a, b)
		c.sums[[2]cond{a, b}] = sum
	}
	return sum
}

// capped is the condition with an end that it does not outlast.
func (c *conds) capped(id cond, until int64) cond {
	if until == forever || id == never {
		return id
	}
	c.mu.Lock()
	parts := c.parts[id]
	c.mu.Unlock()
	if parts != nil {
		sum := never
		for _, p := range parts {
			sum = c.union(sum, c.capped(p, until))
		}
		return sum
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	terms := make([]term, len(c.list[id]))
	for i, t := range c.list[id] {
		t.spans = slices.Clone(t.spans)
		for j := range t.spans {
			t.spans[j].until = min(t.spans[j].until, until)
		}
		terms[i] = t
	}
	return c.put(normal(terms))
}

// normal brings terms into the form that is kept: a term for each posture and
// zone, and no span that another term says, too.
func normal(terms []term) []term {
	var out []term
	for _, t := range terms {
		i := slices.IndexFunc(out, func(o term) bool { return o.key == t.key && o.zone == t.zone })
		if i < 0 {
			out = append(out, t)
			continue
		}
		out[i].spans = latest(out[i].spans, t.spans)
	}
	// What is the whole week in some zone is so in every one.
	for _, t := range slices.Clone(out) {
		if t.zone == "" {
			continue
		}
		if end := whole(t.spans); end > 0 {
			all := []span{{0, week, end}}
			if i := slices.IndexFunc(out, func(o term) bool { return o.key == t.key && o.zone == "" }); i >= 0 {
				out[i].spans = latest(out[i].spans, all)
			} else {
				out = append(out, term{t.posture, t.key, "", all})
			}
		}
	}
	slices.SortFunc(out, func(a, b term) int { return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.zone, b.zone)) })
	var kept []term
	for i, t := range out {
		spans := t.spans
		for j, o := range out {
			if i == j || o.zone != "" && o.zone != t.zone || !implies(t.posture, o.posture) {
				continue
			}
			if o.zone == t.zone && implies(o.posture, t.posture) && j > i {
				continue // the same in other words: the first is kept
			}
			spans = unsaid(spans, o.spans)
		}
		if spans = joined(spans); len(spans) > 0 {
			t.spans = spans
			kept = append(kept, t)
		}
	}
	return kept
}

// cuts are the minutes at which spans begin or end, with those of the week.
func cuts(lists ...[]span) []int16 {
	out := []int16{0, week}
	for _, l := range lists {
		for _, s := range l {
			out = append(out, s.from, s.to)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// endAt is the end that spans have at a minute: 0 where it is in none.
func endAt(spans []span, minute int16) int64 {
	for _, s := range spans {
		if s.from <= minute && minute < s.to {
			return s.until
		}
	}
	return 0
}

// latest is the union of spans, each minute with its latest end.
func latest(a, b []span) (out []span) {
	edges := cuts(a, b)
	for i, from := range edges[:len(edges)-1] {
		if end := max(endAt(a, from), endAt(b, from)); end > 0 {
			out = append(out, span{from, edges[i+1], end})
		}
	}
	return joined(out)
}

// unsaid is what is left of spans where others do not last as long. What is said
// only in part stays as it is.
func unsaid(spans, others []span) (out []span) {
	edges := cuts(spans, others)
	for i, from := range edges[:len(edges)-1] {
		if end := endAt(spans, from); end > 0 && end > endAt(others, from) {
			out = append(out, span{from, edges[i+1], end})
		}
	}
	return out
}

// joined joins spans that touch and end together.
func joined(spans []span) (out []span) {
	for _, s := range spans {
		if n := len(out); n > 0 && out[n-1].to == s.from && out[n-1].until == s.until {
			out[n-1].to = s.to
			continue
		}
		out = append(out, s)
	}
	return out
}

// whole is the first end in spans that are the whole week; 0 where they are not.
func whole(spans []span) int64 {
	end, next := int64(forever), int16(0)
	for _, s := range spans {
		if s.from != next {
			return 0
		}
		next, end = s.to, min(end, s.until)
	}
	if next != week {
		return 0
	}
	return end
}
