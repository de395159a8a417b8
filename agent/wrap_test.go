package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWrap(t *testing.T) {
	a := func(n int) string { return strings.Repeat("ä", n) }
	for _, c := range []struct{ line, want string }{
		{"", ""},
		{"IPv4: UDP works", "IPv4: UDP works"},
		{a(40) + " " + a(39), a(40) + " " + a(39)}, // 80 columns
		{a(40) + " " + a(40), a(40) + "\n  " + a(40)},
		{a(90), a(90)}, // there is no better place
		{a(90) + " b c", a(90) + "\n  b c"},
		{"a " + a(77) + " b " + a(77), "a " + a(77) + "\n  b\n  " + a(77)},
	} {
		if got := wrap(c.line); got != c.want {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
	// Whatever the words, no line is too wide that has more than one.
	long := strings.Repeat("a bc def ghij klmno ", 40)
	got := wrap(long)
	for l := range strings.SplitSeq(got, "\n") {
		if utf8.RuneCountInString(l) > columns {
			t.Errorf("got a line of %d columns: %q", utf8.RuneCountInString(l), l)
		}
	}
	if strings.Join(strings.Fields(got), " ") != strings.TrimSpace(long) {
		t.Errorf("got other words: %q", got)
	}
}
