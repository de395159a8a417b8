package body

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestWriter(t *testing.T) {
	w := NewWriter("writ/test/v1")
	w.Line("text", "two words")
	w.Line("number", int64(7))
	w.Line("time", time.Date(2026, 11, 22, 13, 0, 0, 5, time.FixedZone("x", 3600)))
	w.Line("never", time.Time{})
	w.Line("absent", None)
	want := "writ/test/v1\ntext two words\nnumber 7\ntime 2026-11-22T12:00:00Z\nnever none\nabsent none\n"
	if got := w.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A value with a newline cannot become two lines.
func TestWriterKeepsValuesOnOneLine(t *testing.T) {
	w := NewWriter("writ/test/v1")
	w.Line("a", "x\nb y")
	if got := strings.Count(w.String(), "\n"); got != 2 {
		t.Errorf("%q: %d lines, want 2", w.String(), got)
	}
	r := NewReader("writ/test/v1", w.String())
	if v := r.String("a"); r.Err() == nil {
		t.Errorf("read %q", v)
	}
}

func read(text string, f func(r *Reader)) error {
	r := NewReader("t", text)
	f(r)
	return r.Err()
}

func TestReader(t *testing.T) {
	var (
		s     string
		many  []string
		n     int64
		when  time.Time
		value int
	)
	str := func(r *Reader) { s = r.String("a") }
	strs := func(r *Reader) { many = r.Many("a", 2) }
	num := func(r *Reader) { n = r.Int("a") }
	tm := func(r *Reader) { when = r.Time("a", false) }
	opt := func(r *Reader) { when = r.Time("a", true) }
	val := func(r *Reader) { value = Value(r, "a", strconv.Atoi) }
	optVal := func(r *Reader) { value = Optional(r, "a", strconv.Atoi) }
	vals := func(r *Reader) { Values(r, "a", 2, strconv.Atoi) }
	const shape = "a: empty, or with spaces around it or control characters in it"
	const number = "a: not a number from 0 to 2^62"
	const instant = "a: not a time as in 2026-01-31T12:00:00Z"
	for _, c := range []struct {
		text string
		f    func(*Reader)
		want string
		ok   func() bool
	}{
		{"", str, "no newline at the end", nil},
		{"t", str, "no newline at the end", nil},
		{"t\na x", str, "no newline at the end", nil},
		{"\n", str, "line 1: want type t", nil},
		{"T\na x\n", str, "line 1: want type t", nil},
		{"t \na x\n", str, "line 1: want type t", nil},
		{"\nt\na x\n", str, "line 1: want type t", nil},
		{"t\na \xff\n", str, "not UTF-8", nil},
		{"t\na \xed\xa0\x80\n", str, "not UTF-8", nil},
		{"t\n", str, `line 2: want "a"`, nil},
		{"t\nb x\n", str, `line 2: want "a"`, nil},
		{"t\na\n", str, `line 2: want "a"`, nil},
		{"t\naa x\n", str, `line 2: want "a"`, nil},
		{"t\n a x\n", str, `line 2: want "a"`, nil},
		{"t\na \n", str, "line 2: " + shape, nil},
		{"t\na  x\n", str, "line 2: " + shape, nil},
		{"t\na x \n", str, "line 2: " + shape, nil},
		{"t\na x\ty\n", str, "line 2: " + shape, nil},
		{"t\na x\r\n", str, "line 2: " + shape, nil},
		{"t\na x\x00\n", str, "line 2: " + shape, nil},
		{"t\na x\x7f\n", str, "line 2: " + shape, nil},
		{"t\na x\u0085y\n", str, "line 2: " + shape, nil},
		{"t\na x\u2028y\n", str, "line 2: " + shape, nil},
		{"t\na x\u00a0y\n", str, "line 2: " + shape, nil},
		{"t\na x\ufeff\n", str, "line 2: " + shape, nil},
		{"t\na x\u202ey\n", str, "line 2: " + shape, nil},
		{"t\na x\n", str, "", func() bool { return s == "x" }},
		{"t\na x  y\n", str, "", func() bool { return s == "x  y" }},
		{"t\na é ✓\n", str, "", func() bool { return s == "é ✓" }},
		{"t\na x\na y\n", str, `line 3: unknown or repeated line "a y"`, nil},
		{"t\na x\n\n", str, `line 3: unknown or repeated line ""`, nil},
		{"t\na x\n" + strings.Repeat("z", 100) + "\n", str, `line 3: unknown or repeated line "` + strings.Repeat("z", 40) + `…"`, nil},

		{"t\n", strs, "", func() bool { return many == nil }},
		{"t\na x\na y\n", strs, "", func() bool { return slices.Equal(many, []string{"x", "y"}) }},
		{"t\na x\na y\na z\n", strs, `line 4: more than 2 lines of "a"`, nil},
		{"t\na x\nb\na y\n", strs, `line 3: unknown or repeated line "b"`, nil},
		{"t\na x\na \n", strs, "line 3: " + shape, nil},

		{"t\na 0\n", num, "", func() bool { return n == 0 }},
		{"t\na 4611686018427387904\n", num, "", func() bool { return n == 1<<62 }},
		{"t\na 4611686018427387905\n", num, "line 2: " + number, nil},
		{"t\na 9223372036854775808\n", num, "line 2: " + number, nil},
		{"t\na 99999999999999999999999\n", num, "line 2: " + number, nil},
		{"t\na 00\n", num, "line 2: " + number, nil},
		{"t\na 01\n", num, "line 2: " + number, nil},
		{"t\na +1\n", num, "line 2: " + number, nil},
		{"t\na -0\n", num, "line 2: " + number, nil},
		{"t\na -1\n", num, "line 2: " + number, nil},
		{"t\na 1_000\n", num, "line 2: " + number, nil},
		{"t\na 1e3\n", num, "line 2: " + number, nil},
		{"t\na 1.0\n", num, "line 2: " + number, nil},
		{"t\na 0x1\n", num, "line 2: " + number, nil},
		{"t\na ١\n", num, "line 2: " + number, nil},
		{"t\na none\n", num, "line 2: " + number, nil},

		{"t\na 2026-02-28T23:59:59Z\n", tm, "", func() bool { return when.Equal(time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC)) }},
		{"t\na 1970-01-01T00:00:00Z\n", tm, "", func() bool { return when.Unix() == 0 }},
		{"t\na 9999-12-31T23:59:59Z\n", tm, "", func() bool { return when.Year() == 9999 }},
		{"t\na 1969-12-31T23:59:59Z\n", tm, "line 2: " + instant, nil},
		{"t\na 0001-01-01T00:00:00Z\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-29T00:00:00Z\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-28T23:59:60Z\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-28T23:59:59.000Z\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-28T23:59:59,5Z\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-28T23:59:59+00:00\n", tm, "line 2: " + instant, nil},
		{"t\na 2026-02-28t23:59:59z\n", tm, "line 2: " + instant, nil},
		{"t\na none\n", tm, "line 2: " + instant, nil},
		{"t\na none\n", opt, "", func() bool { return when.IsZero() }},
		{"t\na nonesuch\n", opt, "line 2: " + instant, nil},

		{"t\na 5\n", val, "", func() bool { return value == 5 }},
		{"t\na five\n", val, `line 2: a: strconv.Atoi: parsing "five": invalid syntax`, nil},
		{"t\na none\n", val, `line 2: a: strconv.Atoi: parsing "none": invalid syntax`, nil},
		{"t\na none\n", optVal, "", func() bool { return value == 0 }},
		{"t\na 5\n", optVal, "", func() bool { return value == 5 }},
		{"t\na none \n", optVal, "line 2: " + shape, nil},
		{"t\n", optVal, `line 2: want "a"`, nil},
		{"t\na 1\na two\n", vals, `line 3: a: strconv.Atoi: parsing "two": invalid syntax`, nil},
	} {
		s, many, n, when, value = "", nil, -1, time.Unix(1, 0), -1
		err := read(c.text, c.f)
		if c.want == "" && (err != nil || !c.ok()) || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%q: got %v, want %s", c.text, err, c.want)
		}
	}
}

// The first error is the one that is told, and nothing is read after it.
func TestFirstErrorStays(t *testing.T) {
	calls := 0
	r := NewReader("t", "t\na x\nb y\n")
	_ = r.Int("a")
	first := r.Err()
	parse := func(string) (int, error) { calls++; return 1, errors.New("second") }
	if v := Value(r, "b", parse); v != 0 || calls != 0 {
		t.Errorf("read %d after an error", v)
	}
	if v := r.String("b"); v != "" || len(r.Many("b", 1)) != 0 || r.Int("b") != 0 || !r.Time("b", false).IsZero() || Optional(r, "b", parse) != 0 || Values(r, "b", 1, parse) != nil {
		t.Errorf("read %q after an error", v)
	}
	if first == nil || r.Err() != first {
		t.Errorf("got %v, want %v", r.Err(), first)
	}
}

// Whatever is read with the reader is written again as it was.
func FuzzReader(f *testing.F) {
	f.Add("t\nword x\nnumber 7\ntime 2026-11-22T12:00:00Z\nmany a\nmany b\n")
	f.Add("t\nword é\nnumber 0\ntime none\n")
	f.Add("t\nword none\nnumber 4611686018427387904\ntime none\nmany x\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := NewReader("t", text)
		word, number, when, many := r.String("word"), r.Int("number"), r.Time("time", true), r.Many("many", 3)
		if r.Err() != nil {
			return
		}
		w := NewWriter("t")
		w.Line("word", word)
		w.Line("number", number)
		w.Line("time", when)
		for _, m := range many {
			w.Line("many", m)
		}
		if w.String() != text {
			t.Errorf("%q is written again as %q", text, w.String())
		}
		if number < 0 || number > 1<<62 || len(many) > 3 {
			t.Error(fmt.Sprint("out of limits: ", number, len(many)))
		}
	})
}
