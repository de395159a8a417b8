package document

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNormaliseKeepsWhatMatters(t *testing.T) {
	const one = "  enforced on 4 of 4 nodes     131 ms\n  merged as 4dff601 until 2026-11-30 23:59 UTC\n"
	for _, other := range []string{
		"  enforced on 4 of 4 nodes      9 ms\n  merged as 00ff601 until 2027-01-31 23:59 UTC\n",
	} {
		if got, want := Normalise(other), Normalise(one); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, other := range []string{
		strings.Replace(one, "4 of 4", "3 of 4", 1),
		strings.Replace(one, "merged", "reverted", 1),
		strings.Replace(one, "131 ms", "", 1),
		strings.Replace(one, "  enforced", " enforced", 1),
		strings.Replace(one, "\n", "\n\n", 1),
	} {
		if got := Normalise(other); got == Normalise(one) {
			t.Errorf("%q is taken for %q", other, one)
		}
	}
}

func TestNormaliseCountsNoProbes(t *testing.T) {
	const (
		relay  = "pong from ledger (100.64.0.2) via relay local in 2.01ms\n"
		direct = "pong from ledger (100.64.0.2) via direct 203.0.113.4:41641 in 1.2ms: direct after 110ms\n"
		other  = "pong from ledger (100.64.0.2) via direct 203.0.113.7:999 in 980µs: direct after 1.2s\n"
	)
	if got, want := Normalise(relay+relay+relay+other), Normalise(relay+direct); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, unlike := range []string{relay, direct, relay + relay, direct + relay, "x\nx\n" + relay + direct} {
		if got := Normalise(unlike); got == Normalise(relay+direct) {
			t.Errorf("%q is taken for %q", unlike, relay+direct)
		}
	}
	if got := Normalise("x\nx"); got != "x\nx" {
		t.Errorf("other lines that repeat: got %q, want them kept", got)
	}
}

func TestBlocks(t *testing.T) {
	lines := strings.Split(`# Title
## Run it
**1. First.** Words.
`+"```sh"+`
a     # exits 3
## no heading
`+"```"+`
`+"```text"+`
A
`+"```"+`
## Two
<!-- on laptop, until it shows -->
`+"```sh"+`
b
`+"```"+`

`+"```text"+`
B
`+"```"+`
<!-- demo -->
`+"```"+`
`+"```", "\n")
	got := blocks(lines)
	shown := Block{Language: "text", Begin: 8, Lines: []string{"A"}, Under: "1. First."}
	want := []Block{
		{Language: "sh", Begin: 4, Lines: []string{"a     # exits 3", "## no heading"}, Under: "1. First.", Shown: &shown},
		shown,
		{Language: "sh", Begin: 13, Lines: []string{"b"}, Under: "Two", On: "laptop", Until: true}, // a line stands between
		{Language: "text", Begin: 17, Lines: []string{"B"}, Under: "Two"},
		{Begin: 21, Lines: []string{}, Under: "Two", Demo: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1: 3"}, expectedExits(got[0].Lines)); diff != "" {
		t.Errorf("exits: -want +got:\n%s", diff)
	}
}

func TestShell(t *testing.T) {
	sh := NewShell(t, nil)
	first := sh.Run(t, "cd / && kept=x\nfalse\necho out; echo err >&2\n(exit 4)")
	if diff := cmp.Diff(Result{Out: "out\n", Errs: "err\n", Exits: []string{"2: 1", "4: 4"}}, first); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got, want := sh.Run(t, `echo "$kept $PWD"`).Out, "x /\n"; got != want {
		t.Errorf("the next script in the same shell: got %q, want %q", got, want)
	}
}
