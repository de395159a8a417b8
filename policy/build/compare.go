package build

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

// Compare says what access changes from one revision to another, who is let in
// and put out, and where in the two policies the change comes from. A nil base
// allows nothing and admits nobody. It is judged at the head's time.
func Compare(base, head *Result, inv *reach.Inventory) *reach.Difference {
	return CompareSides(base, head, inv, inv)
}

// CompareSides is Compare with the nodes that are admitted on each side: a change
// says whether it is the policy's or the inventory's.
func CompareSides(base, head *Result, was, is *reach.Inventory) *reach.Difference {
	before := reach.Side{Inventory: was}
	var written *model.Policy
	if base != nil {
		before.Policy, written = base.Compiled, base.Policy
	}
	after := reach.Side{Policy: head.Compiled, Inventory: is}
	d := reach.Diff(before, after, head.At)
	t := reach.NewTracer(written, head.Policy, before, after, head.At)
	for i := range d.Gained {
		d.Gained[i].Causes = t.Causes(d.Gained[i], true)
		withOrigins(&d.Gained[i], head.Policy, false)
	}
	for i := range d.Lost {
		d.Lost[i].Causes = t.Causes(d.Lost[i], false)
		withOrigins(&d.Lost[i], written, true)
	}
	admission(d, base, head, is)
	blame(d, base, head)
	return d
}

// maxBlamed is how many causes are traced to a commit: each may mean to walk the
// history of another file, and nobody reads more.
const maxBlamed = 200

// blame says of each cause which commit last changed its line, where the tree is
// a revision's. What cannot be traced, as in a history that is cut short, is left
// out: it explains a change, and is no part of it.
func blame(d *reach.Difference, base, head *Result) {
	blamer := func(r *Result) *source.Blamer {
		if r == nil {
			return nil
		}
		b, err := r.Tree.Blamer()
		if err != nil {
			return nil
		}
		return b
	}
	old, new := blamer(base), blamer(head)
	if old == nil && new == nil {
		return
	}
	left := maxBlamed
	trace := func(c *reach.Cause) {
		b := new
		if c.Base {
			b = old
		}
		file, line, ok := placeOf(c.Place)
		if b == nil || !ok || left == 0 {
			return
		}
		left--
		if o, err := b.LastChanged(file, line); err == nil {
			c.Commit, c.Author = o.Commit, o.Email
			if o.Author != "" {
				c.Author = fmt.Sprintf("%s <%s>", o.Author, o.Email)
			}
		}
	}
	for _, list := range [][]reach.Change{d.Gained, d.Lost} {
		for i := range list {
			for j := range list[i].Causes {
				trace(&list[i].Causes[j])
			}
		}
	}
	for i := range d.Admission {
		trace(&d.Admission[i].Cause)
	}
}

// placeOf reads file:line.
func placeOf(s string) (file string, line int, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return "", 0, false
	}
	line, err := strconv.Atoi(s[i+1:])
	return s[:i], line, err == nil && line > 0
}
