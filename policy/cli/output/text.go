package output

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
)

// Width is how many columns text is written for, on a terminal and elsewhere: a
// log and a pull request's comment are read by the same people.
const Width = 80

// Text writes reports for people.
type Text struct {
	w      io.Writer
	colour bool
	err    error // of the first write that failed
}

// NewText writes to w, in colour where that is a terminal and NO_COLOR is unset.
func NewText(w io.Writer) *Text {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return &Text{w: w}
	}
	info, err := f.Stat()
	return &Text{w: w, colour: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// A mark begins a line and says what sort it is.
type mark struct{ text, colour string }

var (
	good   = mark{"✓", "32"}
	bad    = mark{"✗", "31"}
	notice = mark{"!", "33"}
	gain   = mark{"+", "32"}
	loss   = mark{"-", "31"}
	kept   = mark{"~", "33"}
)

// marked writes a line that begins with a mark.
func (t *Text) marked(m mark, format string, args ...any) {
	head := t.painted(m)
	lines := wrap(fmt.Sprintf(format, args...), Width-2, Width-4)
	for i, line := range lines {
		if i == 0 {
			t.raw(head + " " + line)
		} else {
			t.raw("    " + line)
		}
	}
}

func (t *Text) painted(m mark) string {
	if !t.colour {
		return m.text
	}
	return "\x1b[" + m.colour + "m" + m.text + "\x1b[0m"
}

// Plain writes a line, wrapped.
func (t *Text) Plain(line string) { t.hung(line, 0, 2) }

// Line writes a line as it is, however long: an error is searched for whole.
func (t *Text) Line(line string) { t.raw(visible(line)) }

// hung writes a line that is indented, and more so where it goes on.
func (t *Text) hung(line string, first, rest int) {
	for i, l := range wrap(line, Width-first, Width-rest) {
		if i == 0 {
			t.raw(strings.Repeat(" ", first) + l)
		} else {
			t.raw(strings.Repeat(" ", rest) + l)
		}
	}
}

func (t *Text) raw(line string) {
	if t.err == nil {
		_, t.err = io.WriteString(t.w, line+"\n")
	}
}

// Problems writes problems as compilers do: the place first.
func (t *Text) Problems(ps model.Problems) error {
	for _, p := range ps {
		t.problem(p, 0)
	}
	return t.err
}

func (t *Text) problem(p model.Problem, indent int) {
	for i, line := range strings.Split(p.String(), "\n") {
		if i == 0 {
			t.hung(line, indent, indent+2)
		} else {
			t.hung(strings.TrimLeft(line, " "), indent+4, indent+6)
		}
	}
}

// warnings writes warnings under one heading.
func (t *Text) warnings(ps model.Problems) {
	if len(ps) == 0 {
		return
	}
	t.marked(notice, "%s", plural(len(ps), "warning", "warnings"))
	for _, p := range ps {
		t.problem(p, 2)
	}
}

// wrap breaks a text between words. Words that do not fit a line stand alone on
// one: a place or a key that is cut cannot be copied.
func wrap(s string, first, rest int) (lines []string) {
	var line strings.Builder
	words := strings.TrimLeft(visible(s), " ")
	lead := len(s) - len(strings.TrimLeft(s, " ")) // an indented text stays indented
	line.WriteString(strings.Repeat(" ", lead))
	used, limit := 0, first-lead
	for _, word := range strings.Split(words, " ") {
		n := utf8.RuneCountInString(word)
		if used > 0 && used+1+n > limit {
			lines = append(lines, strings.TrimRight(line.String(), " "))
			line.Reset()
			used, limit = 0, rest
		}
		if used > 0 {
			line.WriteByte(' ')
			used++
		}
		line.WriteString(word)
		used += n
	}
	return append(lines, line.String())
}

// visible shows control and formatting characters, and what is not UTF-8, as
// escapes.
func visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
