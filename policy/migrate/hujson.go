package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"

	"github.com/writmesh/writ/cue/model"
)

// MaxSize is the largest file that is imported, in bytes: ten times what the
// service that such files come from accepts.
const MaxSize = 4 << 20

// maxDepth bounds how deep values are in each other. Policies need six; values of
// capabilities are whatever applications read.
const maxDepth = 64

// A value is JSON with places and comments.
type value struct {
	place    model.Place
	kind     hujson.Kind // '{', '[', '"', '0', 't', 'f' or 'n'
	str      string      // of a string
	members  []member    // of an object, in the order written
	items    []*value    // of an array
	raw      []byte      // as written, but of arrays and objects
	comments []string    // above it and behind it on its line, a line each
	inside   []string    // before its closing bracket, after the last thing in it
}

// A member is a field of an object.
type member struct {
	name  string
	place model.Place
	value *value
}

// field is the value of that name, whatever its case, or nil.
func (v *value) field(name string) *value {
	for i := range v.members {
		if strings.EqualFold(v.members[i].name, name) {
			return v.members[i].value
		}
	}
	return nil
}

// absent reports whether there is no value; null is none.
func (v *value) absent() bool { return v == nil || v.kind == 'n' }

// empty reports whether a value says nothing: null, false, 0, and empty strings,
// arrays and objects.
func (v *value) empty() bool {
	if v.absent() {
		return true
	}
	switch v.kind {
	case '{':
		return len(v.members) == 0
	case '[':
		return len(v.items) == 0
	case '"':
		return v.str == ""
	case 'f':
		return true
	case '0':
		return string(v.raw) == "0"
	}
	return false
}

// all are the comments at v and at everything in it, in the order written.
func (v *value) all() []string {
	out := append([]string(nil), v.comments...)
	for _, m := range v.members {
		out = append(out, m.value.all()...)
	}
	for _, i := range v.items {
		out = append(out, i.all()...)
	}
	return append(out, v.inside...)
}

// A parser makes values of HuJSON.
type parser struct {
	file  string
	src   []byte
	lines []int // offsets at which lines begin
	out   model.Problems
}

// parse reads HuJSON: JSON with comments and trailing commas.
func parse(file string, src []byte) (*value, error) {
	p := &parser{file: file, src: src}
	at := model.Place{File: file}
	switch {
	case len(src) > MaxSize:
		p.out.Add(at, "%d bytes, at most %d", len(src), MaxSize)
	case !utf8.Valid(src):
		p.out.Add(at, "not UTF-8")
	}
	if err := p.out.Err(); err != nil {
		return nil, err
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf")) // of an editor that marks UTF-8
	p.src = src
	p.lines = []int{0}
	for i, c := range src {
		if c == '\n' {
			p.lines = append(p.lines, i+1)
		}
	}
	if at, deep := tooDeep(src); deep {
		p.out.Add(p.place(at), "values are more than %d deep in each other", maxDepth)
		return nil, p.out.Err()
	}
	v, err := hujson.Parse(src)
	if err != nil {
		line, col, text := p.told(err)
		p.out = append(p.out, model.Problem{
			Place: model.Place{File: file, Line: line, Col: col}, Message: "not HuJSON: " + text,
			Hint: "HuJSON is JSON with comments and with commas after the last entry",
		})
		return nil, p.out.Err()
	}
	root := p.value(&v)
	root.comments = comments(v.BeforeExtra)
	root.inside = append(root.inside, comments(v.AfterExtra)...)
	return root, p.out.Err()
}

// told takes apart an error of the library, which begins with line and column.
func (p *parser) told(err error) (line, col int, text string) {
	text = err.Error()
	if inner := errors.Unwrap(err); inner != nil {
		text = inner.Error()
	}
	if _, scan := fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &line, &col); scan != nil {
		return 0, 0, clean(text)
	}
	return line, col, clean(text)
}

// tooDeep finds the bracket at which values are too deep in each other, without
// recursion. It knows strings and comments; whether brackets fit is the parser's.
func tooDeep(src []byte) (at int, deep bool) {
	depth := 0
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c == '"':
			for i++; i < len(src) && src[i] != '"'; i++ {
				if src[i] == '\\' {
					i++
				}
			}
		case c == '/' && i+1 < len(src) && src[i+1] == '/':
			for i < len(src) && src[i] != '\n' {
				i++
			}
		case c == '/' && i+1 < len(src) && src[i+1] == '*':
			end := bytes.Index(src[i+2:], []byte("*/"))
			if end < 0 {
				return 0, false
			}
			i += 2 + end + 1
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return i, true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return 0, false
}

// place is where an offset is.
func (p *parser) place(offset int) model.Place {
	lo, hi := 0, len(p.lines)
	for lo+1 < hi {
		if mid := (lo + hi) / 2; p.lines[mid] <= offset {
			lo = mid
		} else {
			hi = mid
		}
	}
	return model.Place{File: p.file, Line: lo + 1, Col: offset - p.lines[lo] + 1}
}

func (p *parser) value(v *hujson.Value) *value {
	out := &value{place: p.place(v.StartOffset), kind: v.Value.Kind()}
	switch t := v.Value.(type) {
	case hujson.Literal:
		out.raw = t
		if out.kind == '"' {
			out.str = t.String()
		}
	case *hujson.Array:
		for i := range t.Elements {
			e := &t.Elements[i]
			item := p.value(e)
			p.attach(item, e.BeforeExtra, i > 0, func() *value { return out.items[i-1] })
			item.inside = append(item.inside, comments(e.AfterExtra)...)
			out.items = append(out.items, item)
		}
		last := func() *value { return out.items[len(out.items)-1] }
		p.close(out, t.AfterExtra, len(out.items) > 0, last)
	case *hujson.Object:
		seen := map[string]bool{}
		for i := range t.Members {
			m := &t.Members[i]
			name, _ := m.Name.Value.(hujson.Literal)
			item := p.value(&m.Value)
			p.attach(item, m.Name.BeforeExtra, i > 0, func() *value { return out.members[i-1].value })
			for _, extra := range []hujson.Extra{m.Name.AfterExtra, m.Value.BeforeExtra, m.Value.AfterExtra} {
				item.comments = append(item.comments, comments(extra)...)
			}
			at := p.place(m.Name.StartOffset)
			if seen[name.String()] {
				p.out.Add(at, "%q is there twice", name.String())
			}
			seen[name.String()] = true
			out.members = append(out.members, member{name: name.String(), place: at, value: item})
		}
		last := func() *value { return out.members[len(out.members)-1].value }
		p.close(out, t.AfterExtra, len(out.members) > 0, last)
	}
	return out
}

// attach gives a value the comments before it: those on the line of the value
// before belong to that one.
func (p *parser) attach(to *value, extra hujson.Extra, follows bool, before func() *value) {
	first, rest := split(extra)
	if follows {
		b := before()
		b.comments = append(b.comments, first...)
	} else {
		to.comments = append(to.comments, first...)
	}
	to.comments = append(to.comments, rest...)
}

// close gives out the comments before a closing bracket.
func (p *parser) close(v *value, extra hujson.Extra, follows bool, last func() *value) {
	first, rest := split(extra)
	if follows {
		l := last()
		l.comments = append(l.comments, first...)
	} else {
		v.inside = append(v.inside, first...)
	}
	v.inside = append(v.inside, rest...)
}

// split tells comments on the first line from those after it.
func split(extra hujson.Extra) (first, rest []string) {
	i := bytes.IndexByte(extra, '\n')
	if i < 0 {
		return comments(extra), nil
	}
	if open := bytes.Index(extra[:i], []byte("/*")); open >= 0 && !bytes.Contains(extra[open:i], []byte("*/")) {
		return nil, comments(extra) // a comment over several lines
	}
	return comments(extra[:i+1]), comments(extra[i+1:])
}

// comments are the lines of all comments in what stands between values, without
// their marks.
func comments(extra hujson.Extra) (out []string) {
	s := string(extra)
	for {
		i := strings.IndexByte(s, '/')
		if i < 0 || i+1 >= len(s) {
			return out
		}
		if s[i+1] == '/' {
			text, rest, _ := strings.Cut(s[i+2:], "\n")
			out = append(out, line(text))
			s = rest
			continue
		}
		text, rest, _ := strings.Cut(s[i+2:], "*/")
		for l := range strings.SplitSeq(text, "\n") {
			if l = line(strings.TrimLeft(l, " \t*")); l != "" {
				out = append(out, l)
			}
		}
		s = rest
	}
}

// line is the text of a comment's line, of printable characters.
func line(s string) string { return strings.TrimSpace(clean(s)) }

// clean puts spaces in the place of characters that a terminal, or a reader of
// CUE, would obey.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, r < ' ', r == 0x7f, r >= 0x80 && r < 0xa0,
			r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0xfeff:
			return ' '
		}
		return r
	}, s)
}

// standard is v as compact standard JSON.
func (v *value) standard() []byte {
	var b bytes.Buffer
	v.write(&b)
	return b.Bytes()
}

func (v *value) write(b *bytes.Buffer) {
	switch v.kind {
	case '{':
		b.WriteByte('{')
		for i, m := range v.members {
			if i > 0 {
				b.WriteByte(',')
			}
			name, err := json.Marshal(m.name)
			if err != nil { // of a string there is none
				name = []byte(`""`)
			}
			b.Write(name)
			b.WriteByte(':')
			m.value.write(b)
		}
		b.WriteByte('}')
	case '[':
		b.WriteByte('[')
		for i, item := range v.items {
			if i > 0 {
				b.WriteByte(',')
			}
			item.write(b)
		}
		b.WriteByte(']')
	default:
		b.Write(v.raw)
	}
}
