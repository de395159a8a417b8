// Package body reads and writes the text of Writ's signed notes.
//
// The text of a note is lines of "key value" in an order that its type fixes,
// each ending in a newline; the first line is the type alone ("writ/root/v1").
// A key that may stand several times stands on adjacent lines. A value is one or
// more words of printable UTF-8 without control characters; numbers are decimal
// without sign or leading zeros; times are RFC 3339 in UTC with whole seconds
// and a final Z; a value that is absent is written "none".
//
// A text has one form: a reader of this package refuses missing, repeated,
// unknown and reordered lines, and whoever parses a document checks that writing
// it again gives the same bytes.
package body

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// None is the value of a line that has none.
const None = "none"

// TimeLayout is how times are written.
const TimeLayout = "2006-01-02T15:04:05Z"

// A Writer writes a text. Its zero value is not usable: use NewWriter.
type Writer struct{ b strings.Builder }

// NewWriter begins a text of the type.
func NewWriter(kind string) *Writer {
	w := &Writer{}
	w.b.WriteString(kind + "\n")
	return w
}

// Line writes one line; the value is anything that prints as one. A value that
// prints as more makes a text that no reader takes.
func (w *Writer) Line(key string, value any) {
	switch v := value.(type) {
	case time.Time:
		if v.IsZero() {
			value = None
		} else {
			value = v.UTC().Format(TimeLayout)
		}
	}
	fmt.Fprintf(&w.b, "%s %s\n", key, oneLine.Replace(fmt.Sprint(value)))
}

// oneLine keeps a value from becoming two lines: in its place stands a control
// character, which no reader takes.
var oneLine = strings.NewReplacer("\n", "\r")

// String is the text.
func (w *Writer) String() string { return w.b.String() }

// A Reader reads a text line by line and remembers the first error.
type Reader struct {
	lines []string
	n     int // lines read
	err   error
}

// NewReader begins to read a text that must be of the type.
func NewReader(kind, text string) *Reader {
	r := &Reader{}
	body, ok := strings.CutSuffix(text, "\n")
	if !ok {
		r.err = errors.New("no newline at the end")
		return r
	}
	if !utf8.ValidString(text) {
		r.err = errors.New("not UTF-8")
		return r
	}
	r.lines = strings.Split(body, "\n")
	if r.lines[0] != kind {
		r.err = fmt.Errorf("line 1: want type %s", kind)
		return r
	}
	r.n = 1
	return r
}

func (r *Reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("line %d: %s", r.n, fmt.Sprintf(format, args...))
	}
}

// Err is the first error. It also ends the reading: lines left over are one.
func (r *Reader) Err() error {
	if r.err == nil && r.n < len(r.lines) {
		r.n++
		r.fail("unknown or repeated line %q", clip(r.lines[r.n-1]))
	}
	return r.err
}

// peek reports whether the next line has this key.
func (r *Reader) peek(key string) bool {
	return r.err == nil && r.n < len(r.lines) && strings.HasPrefix(r.lines[r.n], key+" ")
}

// String reads one line's value.
func (r *Reader) String(key string) string {
	if r.err != nil {
		return ""
	}
	if !r.peek(key) {
		r.n++
		r.fail("want %q", key)
		return ""
	}
	v := r.lines[r.n][len(key)+1:]
	r.n++
	if v == "" || v != strings.TrimSpace(v) || strings.ContainsFunc(v, unprintable) {
		r.fail("%s: empty, or with spaces around it or control characters in it", key)
		return ""
	}
	return v
}

// Many reads adjacent lines of one key, at most limit of them.
func (r *Reader) Many(key string, limit int) (out []string) {
	for r.peek(key) {
		if len(out) == limit {
			r.n++
			r.fail("more than %d lines of %q", limit, key)
			return nil
		}
		out = append(out, r.String(key))
	}
	return out
}

// Int reads a whole number from 0 to 2^62.
func (r *Reader) Int(key string) int64 {
	v := r.String(key)
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<62 || strconv.FormatInt(n, 10) != v {
		r.fail("%s: not a number from 0 to 2^62", key)
		return 0
	}
	return n
}

// Time reads a time; "none" is the zero time where optional.
func (r *Reader) Time(key string, optional bool) time.Time {
	v := r.String(key)
	if r.err != nil || optional && v == None {
		return time.Time{}
	}
	t, err := time.Parse(TimeLayout, v)
	if err != nil || t.Format(TimeLayout) != v || t.Year() < 1970 {
		r.fail("%s: not a time as in 2026-01-31T12:00:00Z", key)
		return time.Time{}
	}
	return t
}

// Value reads one line with a parser, such as key.ParseHash.
func Value[T any](r *Reader, key string, parse func(string) (T, error)) (v T) {
	s := r.String(key)
	if r.err != nil {
		return v
	}
	v, err := parse(s)
	if err != nil {
		r.fail("%s: %v", key, err)
	}
	return v
}

// Optional is Value for a line that may say "none", which is T's zero value.
func Optional[T any](r *Reader, key string, parse func(string) (T, error)) (v T) {
	if r.peek(key) && r.lines[r.n] == key+" "+None {
		r.n++
		return v
	}
	return Value(r, key, parse)
}

// Values reads adjacent lines of one key with a parser.
func Values[T any](r *Reader, key string, limit int, parse func(string) (T, error)) (out []T) {
	for _, s := range r.Many(key, limit) {
		v, err := parse(s)
		if err != nil {
			r.fail("%s: %v", key, err)
			return nil
		}
		out = append(out, v)
	}
	return out
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) }

func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return s
}
