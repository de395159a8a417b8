package history_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/history"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/policy/source/sourcetest"
)

func TestMain(m *testing.M) {
	build.Child()
	os.Exit(m.Run())
}

// policyOf is a policy in which these users reach tag:t; a negative list does not
// load.
func policyOf(members []int, note int) map[string]string {
	var list []string
	for _, m := range members {
		list = append(list, fmt.Sprintf("%q", userName(m)))
	}
	text := fmt.Sprintf("package network\nnetwork: {name: \"n\", domain: \"n.mesh\"}\ntags: t: {}\ngroups: g: [%s]\nrules: r: {from: [\"group:g\"], to: [\"tag:t\"], allow: [\"tcp/1\"]}\n", strings.Join(list, ", "))
	return map[string]string{"p.cue": text, "README.md": fmt.Sprint(note)}
}

func userName(n int) string { return fmt.Sprintf("u%d@n.example", n) }

// TestTrace walks random histories and compares with what is known from the lists
// that they are written from.
func TestTrace(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	const users, commits = 4, 14
	repo := sourcetest.New(t)
	var in [commits][users]bool // who has access after each commit
	var broken [commits]bool
	var ids [commits]string
	for c := range commits {
		if c > 0 {
			in[c] = in[c-1]
		}
		files := map[string]string{"p.cue": "package network\nrules: {", "README.md": fmt.Sprint(c)}
		switch broken[c] = c < commits-1 && rnd.IntN(5) == 0; {
		case broken[c]:
		case rnd.IntN(3) > 0:
			u := rnd.IntN(users)
			in[c][u] = !in[c][u]
			fallthrough
		default:
			var members []int
			for u := range users {
				if in[c][u] {
					members = append(members, u)
				}
			}
			files = policyOf(members, c)
		}
		ids[c] = repo.Commit(sourcetest.Commit{Files: files, Author: fmt.Sprintf("A%d <a%d@n.example>", c, c)})
	}
	r, err := source.Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := r.Tree("main")
	if err != nil {
		t.Fatal(err)
	}
	head, err := build.Check(t.Context(), build.Request{Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	to, err := acl.ParseSelector("tag:t")
	if err != nil {
		t.Fatal(err)
	}
	for u := range users {
		from := acl.Selector{Kind: acl.KindUser, Name: userName(u)}
		a, err := history.Trace(t.Context(), r, head, nil, history.Question{From: &from, To: to, Target: acl.Target{Proto: acl.TCP, Port: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if !in[commits-1][u] {
			if len(a.Spans) != 0 {
				t.Errorf("%s: got %+v, want nothing: there is no access", from, a.Spans)
			}
			continue
		}
		since, first, ended := commits-1, 0, false
		for c := commits - 1; c >= 0; c-- {
			switch {
			case broken[c]:
			case !in[c][u]:
				ended = true
			default:
				first = c
				if !ended {
					since = c
				}
			}
		}
		if len(a.Spans) != 1 {
			t.Fatalf("%s: got %d spans, want 1", from, len(a.Spans))
		}
		s := a.Spans[0]
		if s.Since.Hash != ids[since] {
			t.Errorf("%s: since: got commit %d, want %d", from, slices.Index(ids[:], s.Since.Hash), since)
		}
		if got := s.First; (got != nil) != (first != since) || got != nil && got.Hash != ids[first] {
			t.Errorf("%s: first: got %v, want commit %d (since %d)", from, got, first, since)
		}
		if a.Commits != commits || a.Cut != nil {
			t.Errorf("%s: got %d commits, cut %v, want all %d", from, a.Commits, a.Cut, commits)
		}
		if len(s.Causes) == 0 {
			t.Errorf("%s: no cause, want one", from)
		}
		for _, c := range s.Causes {
			if !strings.HasPrefix(c.Place, "p.cue:") || c.Commit == "" {
				t.Errorf("%s: cause %+v: want a place in p.cue with its commit", from, c)
			}
		}
	}
}

// A walk that ends says so, and claims nothing about what it did not see.
func TestTraceIsCut(t *testing.T) {
	repo := sourcetest.New(t)
	for c := range 5 {
		members := []int{0}
		for m := range c {
			members = append(members, m+1)
		}
		repo.Commit(sourcetest.Commit{Files: policyOf(members, c)})
	}
	r, err := source.Open(repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := r.Tree("main")
	if err != nil {
		t.Fatal(err)
	}
	head, err := build.Check(t.Context(), build.Request{Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	a, err := history.Trace(t.Context(), r, head, nil, history.Question{To: acl.Selector{Kind: acl.KindTag, Name: "t"}, Target: acl.Target{Proto: acl.TCP, Port: 1}, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	if a.Cut == nil || a.Policies != 2 || a.Commits != 2 {
		t.Errorf("got cut %v, %d policies of %d commits, want 2 of 2 and where", a.Cut, a.Policies, a.Commits)
	}
	open := map[string]bool{}
	for _, s := range a.Spans {
		for _, f := range s.From {
			open[f] = s.Open
		}
		if s.Open && len(s.Causes) > 0 {
			t.Errorf("%v: open, with causes %v", s.From, s.Causes)
		}
	}
	if want := userName(4); open[want] {
		t.Errorf("%s: got open, want since the last commit", want)
	}
	if len(open) < 2 || !slices.Contains(mapValues(open), true) {
		t.Errorf("got %v, want some that may be older", open)
	}
}

func mapValues(m map[string]bool) (out []bool) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}
