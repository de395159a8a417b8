package output

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 漢":            "plain é 漢",
		"\x1b[2J":              `\u001b[2J`,
		"a\nb\tc":              `a\u000ab\u0009c`,
		"\u202egnp.exe":        `\u202egnp.exe`,
		"zero\u200bwidth":      `zero\u200bwidth`,
		"not \xff UTF-8":       `not \xff UTF-8`,
		"\ufffd stands itself": "\ufffd stands itself",
		"line\u2028sep":        `line\u2028sep`,
	} {
		if got := visible(in); got != want {
			t.Errorf("visible(%q): got %q, want %q", in, got, want)
		}
	}
}

// TestWrapKeepsEveryWord: all words, in their order, in lines that fit, but for
// lines of one word that does not.
func TestWrapKeepsEveryWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-zé漢:/"]{1,30}`), 1, 40).Draw(t, "words")
		first, rest := rapid.IntRange(10, 80).Draw(t, "first"), rapid.IntRange(10, 80).Draw(t, "rest")
		lines := wrap(strings.Join(words, " "), first, rest)
		if got, want := strings.Join(lines, " "), strings.Join(words, " "); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		for i, line := range lines {
			limit := rest
			if i == 0 {
				limit = first
			}
			if n := utf8.RuneCountInString(line); n > limit && strings.Contains(line, " ") {
				t.Fatalf("line %d: %d columns, want at most %d: %q", i, n, limit, line)
			}
		}
	})
}

func TestWrapKeepsIndentation(t *testing.T) {
	if got, want := strings.Join(wrap("   a bb ccc", 8, 4), "|"), "   a bb|ccc"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestColourIsForTerminals(t *testing.T) {
	var b bytes.Buffer
	NewText(&b).marked(good, "fine")
	if got, want := b.String(), "✓ fine\n"; got != want {
		t.Errorf("into a buffer: got %q, want %q", got, want)
	}
	b.Reset()
	(&Text{w: &b, colour: true}).marked(bad, "not fine")
	if got, want := b.String(), "\x1b[31m✗\x1b[0m not fine\n"; got != want {
		t.Errorf("on a terminal: got %q, want %q", got, want)
	}
}
