package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/sandbox"
)

// onlyTests is the problem of a tree that has tests of guards, and no guard: one
// that is declared and judges nothing does not pass.
func (r *Result) onlyTests() (ps model.Problems) {
	if len(r.guardFiles) > 0 && r.GuardCount() == 0 {
		for name := range r.guardFiles {
			ps = append(ps, model.Problem{Place: model.Place{File: name}, Message: "tests of guards, and no guard: zero guards never pass where some are declared"})
		}
	}
	return ps
}

// countGuards is how many of the files are guards and not tests of them.
func countGuards(files map[string][]byte) (n int) {
	for name := range files {
		if !strings.HasSuffix(name, "_test.rego") {
			n++
		}
	}
	return n
}

// guard runs this tree's guards, and those of the revision before where they are
// not the same: a change cannot remove the guard that forbids it. Guards may
// refer to each other, so that the old ones run as the whole that they were; what
// both say is said once.
func (r *Result) guard(ctx context.Context, child *sandbox.Child, base *Result) error {
	input := rego.Input{Network: r.Policy, Diff: r.guardDifference(base)}
	if c := r.Tree.Commit; c != nil {
		input.Commit = rego.Commit{
			Hash: c.Hash, Author: c.Author, Email: c.Email, Message: c.Message, Parents: slices.Clone(c.Parents), When: c.When,
		}
	}
	if err := r.judge(ctx, child, r.guardFiles, input, false); err != nil {
		return err
	}
	if base == nil || keeps(base.guardFiles, r.guardFiles) {
		return nil
	}
	if err := r.judge(ctx, child, base.guardFiles, input, true); err != nil {
		return fmt.Errorf("guards of the revision before: %w", err)
	}
	return nil
}

// judge takes up what one set of guards says.
func (r *Result) judge(ctx context.Context, child *sandbox.Child, files map[string][]byte, input rego.Input, base bool) error {
	if len(files) == 0 {
		return nil
	}
	res, err := rego.Judge(ctx, child, files, input)
	if err != nil {
		return err
	}
	if got, want := len(res.Checked), countGuards(files); got != want {
		return fmt.Errorf("%d guards looked at the policy, of %d", got, want)
	}
	for _, found := range []struct {
		findings []rego.Finding
		deny     bool
	}{{res.Deny, true}, {res.Warn, false}} {
		for _, f := range found.findings {
			said := slices.ContainsFunc(r.Guards, func(x Finding) bool {
				return x.Deny == found.deny && x.Guard == f.Guard && x.Message == f.Message && x.Place == f.Place
			})
			if !said {
				r.Guards = append(r.Guards, Finding{f, found.deny, base, r.gone(f.Place, f.Rule, base)})
			}
		}
	}
	for _, a := range res.Approvals {
		said := slices.ContainsFunc(r.Approvals, func(x Approval) bool {
			return x.Guard == a.Guard && x.Team == a.Team && x.Reason == a.Reason && x.Place == a.Place
		})
		if !said {
			r.Approvals = append(r.Approvals, Approval{a, base, r.gone(a.Place, a.Rule, base)})
		}
	}
	return nil
}

// gone reports whether the place that a guard speaks of is in the revision before:
// the guard itself where it is one of that revision, or a file that is no longer.
func (r *Result) gone(about, rule model.Place, base bool) bool {
	if about.IsZero() || about == rule {
		return base
	}
	_, err := fs.Stat(r.Tree.FS, about.File)
	return errors.Is(err, fs.ErrNotExist)
}

// keeps reports whether all guards of a set stand unchanged in another. Tests of
// guards do not judge.
func keeps(files, in map[string][]byte) bool {
	for name, b := range files {
		if o, ok := in[name]; (!ok || string(o) != string(b)) && !strings.HasSuffix(name, "_test.rego") {
			return false
		}
	}
	return true
}

// guardDifference is the difference as guards see it: one entry for each source
// and destination.
func (r *Result) guardDifference(base *Result) (out rego.Difference) {
	d, was := r.Difference, &model.Policy{}
	if base != nil {
		was = base.Policy
	}
	for _, a := range d.Admission {
		out.Admission = append(out.Admission, rego.Admission{
			Kind: a.Kind, Name: a.Name, Change: a.Change, Effect: a.Effect, Text: a.Text, Nodes: a.Nodes,
			Place: admissionPlace(a, was, r.Policy, d.At),
		})
	}
	side := func(changes []reach.Change) ([]rego.Change, rego.Extent) {
		list := []rego.Change{}
		people, nodes := map[string]bool{}, map[string]bool{}
		for _, c := range changes {
			until := ""
			if !c.Until.IsZero() {
				until = c.Until.UTC().Format(time.RFC3339)
			}
			for _, from := range c.From {
				for _, to := range c.To {
					list = append(list, rego.Change{
						From: from, To: to, Ports: c.Ports, Until: until, Kept: c.Kept,
						When: c.When, Posture: c.Posture, Capabilities: c.Capabilities,
						By: c.By, Rules: c.Rules, People: c.People, Nodes: c.Nodes,
					})
				}
			}
			for _, p := range c.People {
				people[p] = true
			}
			for _, n := range c.Nodes {
				nodes[n] = true
			}
		}
		return list, rego.Extent{Changes: len(list), People: len(people), Nodes: len(nodes)}
	}
	out.Gained, out.Counts.Gained = side(d.Gained)
	out.Lost, out.Counts.Lost = side(d.Lost)
	return out
}
