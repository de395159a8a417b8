package output

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/tester"
)

// What stays under other conditions is told with what they were, and counts as
// gained or lost for whom they let in or leave out; only another end does not.
func TestOtherConditions(t *testing.T) {
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	change := func(edit func(c *reach.Change)) reach.Change {
		c := reach.Change{From: []string{"group:dev"}, To: []string{"tag:db"}, Ports: []string{"tcp/22"}, People: []string{"a@x.example", "b@x.example"}, Kept: true, By: "policy"}
		edit(&c)
		return c
	}
	narrow := change(func(c *reach.Change) { c.Posture = []string{"os in macos"} })
	wide := change(func(c *reach.Change) {
		c.When, c.BeforeWhen = []string{"mon-sat 09:00-17:00 UTC"}, []string{"mon-fri 09:00-17:00 UTC"}
		c.Until, c.Before = year(2028), year(2028)
	})
	aside := change(func(c *reach.Change) {
		c.Posture, c.BeforePosture, c.When, c.BeforeWhen = []string{"os in macos"}, []string{"os in linux"}, []string{"sat"}, []string{"sat"}
	})
	end := change(func(c *reach.Change) { c.Until = year(2027) })
	for _, c := range []struct {
		name         string
		gained, lost []reach.Change
		when         string
		effect       string
		headings     []string
		pills        []string
	}{
		{"narrower", nil, []reach.Change{narrow}, "now where os in macos, before whatever is reported",
			"2 people lose access under some conditions", []string{"under other conditions"}, []string{"nothing gained", "lost under some conditions by 2 people"}},
		{"wider", []reach.Change{wide}, nil, "now mon-sat 09:00-17:00 UTC, before mon-fri 09:00-17:00 UTC; until 2028-01-01 00:00 UTC",
			"2 people gain access under some conditions", []string{"under other conditions"}, []string{"nothing lost", "gained under some conditions by 2 people"}},
		{"aside", []reach.Change{aside}, []reach.Change{aside}, "now where os in macos, before where os in linux; sat",
			"2 people gain access under some conditions and 2 people lose access under some conditions", []string{"under other conditions"},
			[]string{"gained under some conditions by 2 people", "lost under some conditions by 2 people"}},
		{"end", nil, []reach.Change{end}, "now until 2027-01-01 00:00 UTC, before without end",
			"access ends at another time", []string{"with another end"}, []string{"nothing gained", "nothing lost", "kept with another end by 2 people"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &reach.Difference{Gained: c.gained, Lost: c.lost}
			for side, list := range [][]reach.Change{c.gained, c.lost} {
				for _, ch := range list {
					sides := []string{"access/gained: group:dev (2 people) keep tcp/22 on tag:db, and gain some of it", "access/lost: group:dev (2 people) keep tcp/22 on tag:db, and lose some of it"}
					if c.name == "end" {
						sides[1] = "access/kept: group:dev (2 people) keep tcp/22 on tag:db"
					}
					if s := tell(ch, side == 0, false); s.id+": "+s.text != sides[side] {
						t.Errorf("got %s: %s, want %s", s.id, s.text, sides[side])
					}
					if got := when(ch, true); got != c.when {
						t.Errorf("when: got %q, want %q", got, c.when)
					}
				}
			}
			if got := effectOf(d); got != c.effect {
				t.Errorf("effect: got %q, want %q", got, c.effect)
			}
			var b bytes.Buffer
			r := &Report{Verb: "diff", Difference: d, Maps: &Maps{}}
			if err := Markdown(&b, r); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(b.String(), "#### Access"); n != len(c.headings) {
				t.Errorf("%d headings, want %d:\n%s", n, len(c.headings), b.String())
			}
			for _, h := range c.headings {
				if !strings.Contains(b.String(), "#### Access kept, "+h) {
					t.Errorf("no heading %q in\n%s", h, b.String())
				}
			}
			if n := strings.Count(b.String(), "`group:dev`"); n != 1 {
				t.Errorf("the change stands in %d rows, want 1:\n%s", n, b.String())
			}
			var pills []string
			for _, p := range newPage(r).Counts {
				pills = append(pills, p.Text)
			}
			if strings.Join(pills, "; ") != strings.Join(c.pills, "; ") {
				t.Errorf("page says %q, want %q", pills, c.pills)
			}
		})
	}
}

// A row that is not of the change itself is not said to have been there before.
func TestChangeViewClaimsNothingOfBefore(t *testing.T) {
	all := reach.Change{From: []string{"group:dev"}, To: []string{"tag:db"}, Ports: []string{"tcp/22"}}
	one := all
	one.From = []string{"bob@x.example"}
	rows := changeArrows(&reach.Difference{Gained: []reach.Change{one}}, &Maps{After: []reach.Change{all}})
	if len(rows) != 2 || rows[0].Sign != "+" || rows[1].Sign == "=" {
		t.Errorf("rows %+v: want one that is gained, and one that is there after the change", rows)
	}
}

// What changes about trust is told by what it is: an administrator is no node.
func TestTrustInAFewWords(t *testing.T) {
	a := func(kind, change, effect string) reach.Admission {
		return reach.Admission{Kind: kind, Change: change, Effect: effect}
	}
	for _, c := range []struct {
		want string
		list []reach.Admission
	}{
		{"an administrator is added", []reach.Admission{a("admins", reach.Added, reach.LetsIn)}},
		{"2 administrators are removed", []reach.Admission{a("admins", reach.Removed, ""), a("admins", reach.Removed, "")}},
		{"nodes are let in and an administrator is added", []reach.Admission{a("pin", reach.Added, reach.LetsIn), a("admins", reach.Added, reach.LetsIn)}},
		{"nodes are let in and put out", []reach.Admission{a("pin", reach.Added, reach.LetsIn), a("pin", reach.Removed, reach.PutsOut)}},
		{"guards change", []reach.Admission{a("guard", reach.Removed, ""), a("guard", reach.Changed, "")}},
		{"whom the network trusts changes", []reach.Admission{a("guard", reach.Removed, ""), a("test", reach.Removed, "")}},
		{"whom the network trusts changes", []reach.Admission{a("relay", reach.Changed, "")}},
	} {
		if got := effectOf(&reach.Difference{Admission: c.list}); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.list, got, c.want)
		}
	}
}

// A guard that a change takes away is shown where it still is.
func TestPlacesOfTheBase(t *testing.T) {
	place := model.Place{File: "guard/star.rego", Line: 3, Col: 1}
	r := &Report{
		Verb:       "test",
		Difference: &reach.Difference{},
		Test: &Test{Tests: &tester.Result{}, Guards: []build.Finding{{
			Finding: rego.Finding{Guard: "star", Message: "no", Place: place, Rule: place}, Deny: true, Base: true, Gone: true,
		}}, Approvals: []build.Approval{{
			Approval: rego.Approval{Guard: "star", Team: "group:it", Reason: "why", Place: place, Rule: place}, Base: true, Gone: true,
		}}},
		Base: Origin{Label: "main", Commit: strings.Repeat("b", 40), Link: "https://forge.example/x/blob/" + strings.Repeat("b", 40)},
		Head: Origin{Label: "pr", Commit: strings.Repeat("e", 40), Link: "https://forge.example/x/blob/" + strings.Repeat("e", 40)},
	}
	var b bytes.Buffer
	if err := Markdown(&b, r); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "was ["); n != 2 || strings.Contains(b.String(), r.Head.Link) || strings.Count(b.String(), r.Base.Link+"/guard/star.rego") != 2 {
		t.Errorf("got\n%s\nwant both places in the base", b.String())
	}
	b.Reset()
	if err := GitHub(&b, r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "file=guard") || strings.Count(b.String(), "(was guard/star.rego:3:1)") != 2 {
		t.Errorf("got\n%s\nwant no annotation of a file that is gone", b.String())
	}
}
