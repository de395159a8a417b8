// Package document tries a document: it runs the commands that stand in it, as
// they stand, and compares what they print with what the document says they do.
// It is for tests.
//
// The fenced blocks of a document mean:
//
//	```sh          commands, run in order by one shell
//	# exits N      at the end of a line: how that command exits; others exit 0
//	```text        directly after commands: what they print
//
// A line before a block says more, separated by commas:
//
//	<!-- until it shows -->   it takes a moment until the commands print that,
//	                          so they are repeated
//	<!-- on NAME -->          the commands are of that machine
//	<!-- demo -->             what the demo prints
//
// Keys, commits, times, addresses, ports, sizes and the number of probes differ
// each time and are not compared. UPDATE=1 writes what is printed into the
// document.
package document

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// columns is how wide output in a document may be.
const columns = 80

// A Block is a fenced part of a document.
type Block struct {
	Language string
	Begin    int // index of the first line between the fences
	Lines    []string
	Under    string // the heading, or the step in bold ("2. Keys."), that it stands under
	Until    bool   // repeated until it shows what it should
	Demo     bool
	On       string // the machine it is for; empty: not said
	Shown    *Block // what it prints; nil: not shown
}

// A Document is one that can be tried and written anew.
type Document struct {
	name  string
	path  string
	lines []string
	fresh map[int][]string // by the index of a block's first line
}

// Open reads a document, which is called by name in what is reported of it.
func Open(t testing.TB, name, path string) *Document {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &Document{name: name, path: path, lines: strings.Split(string(b), "\n"), fresh: map[int][]string{}}
}

// Blocks are the fenced parts of the document.
func (d *Document) Blocks() []Block { return blocks(d.lines) }

var (
	notes = regexp.MustCompile(`^<!-- (.*) -->$`)
	step  = regexp.MustCompile(`^\*\*([0-9]+\. [^*]*)\*\*`)
)

func blocks(lines []string) (found []Block) {
	var b *Block
	under := ""
	for i, l := range lines {
		switch {
		case b == nil && strings.HasPrefix(l, "```"):
			b = &Block{Language: strings.TrimPrefix(l, "```"), Begin: i + 1, Under: under}
			if i > 0 {
				b.note(lines[i-1])
			}
		case b != nil && l == "```":
			b.Lines = lines[b.Begin:i]
			found = append(found, *b)
			b = nil
		case b == nil && strings.HasPrefix(l, "## "):
			under = strings.TrimPrefix(l, "## ")
		case b == nil && step.MatchString(l):
			under = step.FindStringSubmatch(l)[1]
		}
	}
	for i := range found[:max(0, len(found)-1)] {
		next := &found[i+1]
		if next.Language == "text" && next.Begin <= found[i].Begin+len(found[i].Lines)+2 {
			found[i].Shown = next
		}
	}
	return found
}

func (b *Block) note(line string) {
	m := notes.FindStringSubmatch(line)
	if m == nil {
		return
	}
	for n := range strings.SplitSeq(m[1], ", ") {
		switch {
		case n == "until it shows":
			b.Until = true
		case n == "demo":
			b.Demo = true
		case strings.HasPrefix(n, "on "):
			b.On = strings.TrimPrefix(n, "on ")
		}
	}
}

// Shows compares what was printed with a block, or notes it for Update.
func (d *Document) Shows(t testing.TB, b Block, printed string) {
	t.Helper()
	for l := range strings.SplitSeq(printed, "\n") {
		if n := utf8.RuneCountInString(l); n > columns {
			t.Errorf("%d columns, want at most %d: %q", n, columns, l)
		}
	}
	if updates() {
		d.fresh[b.Begin] = strings.Split(strings.TrimRight(printed, "\n"), "\n")
		return
	}
	want, got := Normalise(strings.Join(b.Lines, "\n")), Normalise(printed)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s:%d: the block is not what is printed (-%[1]s +printed; UPDATE=1 writes it):\n%[3]s\nprinted:\n%s", d.name, b.Begin+1, diff, printed)
	}
}

// Update writes the blocks that changed in anything that matters.
func (d *Document) Update(t testing.TB) {
	t.Helper()
	if !updates() || t.Failed() {
		return
	}
	found := d.Blocks()
	slices.Reverse(found)
	for _, b := range found {
		lines, ok := d.fresh[b.Begin]
		if ok && Normalise(strings.Join(lines, "\n")) != Normalise(strings.Join(b.Lines, "\n")) {
			d.lines = slices.Concat(d.lines[:b.Begin], lines, d.lines[b.Begin+len(b.Lines):])
		}
	}
	if err := os.WriteFile(d.path, []byte(strings.Join(d.lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

func updates() bool { return os.Getenv("UPDATE") != "" }

// Try runs the commands of a block, and holds them to how they exit and what they
// print. What stands in the document for something else is put in by put before,
// and taken out of what is printed by take; either may be nil.
func (d *Document) Try(t testing.TB, sh *Shell, b Block, put, take *strings.Replacer) {
	t.Helper()
	script := replace(put, strings.Join(b.Lines, "\n"))
	began := time.Now()
	r := sh.Run(t, script)
	for b.Until && !b.shows(replace(take, r.Out)) && time.Since(began) < patience() {
		r = sh.Run(t, script)
	}
	if diff := cmp.Diff(expectedExits(b.Lines), r.Exits); diff != "" {
		t.Fatalf("%s:%d: exit codes by line of the block (-%[1]s +got):\n%[3]s\n%s%s\n%s", d.name, b.Begin+1, diff, r.Out, r.Errs, sh.Logs())
	}
	if b.Shown != nil {
		d.Shows(t, *b.Shown, replace(take, r.Out))
	}
	if t.Failed() {
		t.Fatalf("standard error:\n%s\n%s", r.Errs, sh.Logs())
	}
}

// shows reports whether that is what the block is to show.
func (b Block) shows(printed string) bool {
	return b.Shown == nil || Normalise(printed) == Normalise(strings.Join(b.Shown.Lines, "\n"))
}

func replace(r *strings.Replacer, s string) string {
	if r == nil {
		return s
	}
	return r.Replace(s)
}

// patience is how long a block is repeated: a while in a test, and long enough
// for things to settle when it is written anew.
func patience() time.Duration {
	if updates() {
		return 2 * time.Second
	}
	return 30 * time.Second
}

var exitsComment = regexp.MustCompile(`# exits ([0-9]+)`)

// expectedExits are the lines of a block that do not exit 0, as "LINE: CODE".
func expectedExits(lines []string) []string {
	exits := []string{}
	for i, l := range lines {
		if m := exitsComment.FindStringSubmatch(l); m != nil {
			exits = append(exits, fmt.Sprintf("%d: %s", i+1, m[1]))
		}
	}
	return exits
}
