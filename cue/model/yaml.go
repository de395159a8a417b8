package model

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
	"go.yaml.in/yaml/v3"
)

// A yamlReader turns YAML into the syntax of CUE, with its places.
//
// It takes the part of YAML that is JSON in other clothes: one document, of
// mappings whose keys are texts, sequences, texts, whole numbers, true, false and
// null. A time that stands without quotes is a text. Refused are anchors and
// aliases, which can stand for more than is written; tags and merge keys, which
// make of a text what nobody sees; numbers that JSON does not know, and more than
// one document.
type yamlReader struct {
	file  *token.File
	text  []byte
	lines []int // offsets of their beginnings
}

// parseYAML reads a data file. The error is Problems, with one problem.
func parseYAML(name string, text []byte) (*ast.File, error) {
	r := &yamlReader{text: text, lines: []int{0}}
	for i, b := range text {
		if b == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	r.file = token.NewFile(name, -1, len(text))
	r.file.SetLinesForContent(text)
	if at, deep := r.tooDeep(name); deep {
		return nil, Problems{{Place: at, Message: fmt.Sprintf("nested more than %d deep", maxNesting)}}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); err != nil && err != io.EOF {
		return nil, r.notYAML(name, err)
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, r.problem(&more, "a second document; a data file has one")
	case err != io.EOF:
		return nil, r.notYAML(name, err)
	}
	f := &ast.File{Filename: name, Decls: []ast.Decl{&ast.Package{Name: ast.NewIdent("network")}}}
	if len(doc.Content) == 0 {
		return f, nil // nothing but comments
	}
	if doc.Content[0].Kind != yaml.MappingNode {
		return nil, r.problem(doc.Content[0], "a data file is one mapping with the fields of a policy")
	}
	top, err := r.mapping(doc.Content[0], 0)
	if err != nil {
		return nil, err
	}
	f.Decls = append(f.Decls, top.Elts...)
	return f, nil
}

// lineInError is how the YAML reader says where something is wrong.
var lineInError = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// notYAML says what the YAML reader does not read. Of a block that does not go on as
// it must, the reader knows where it begins; the line that breaks it is looked for.
func (r *yamlReader) notYAML(name string, err error) Problems {
	p := Problem{Place: Place{File: name}, Message: "not YAML: " + clean(lineInError.ReplaceAllString(err.Error(), ""))}
	if m := lineInError.FindStringSubmatch(err.Error()); m != nil {
		if n, bad := strconv.Atoi(m[1]); bad == nil && n >= 1 && n <= len(r.lines) {
			p.Place.Line, p.Place.Col = n, 1
			if at, found := r.breaks(n, err.Error()); found && at > n {
				p.Also = []Place{p.Place}
				p.Place.Line = at
				p.Hint = "the line does not go on what begins above; see how far it is indented, and what is missing at its beginning or end"
			}
		}
	}
	return Problems{p}
}

// maxBreaks is how long a text is in which breaks looks: it is read twenty times.
const maxBreaks = 1 << 18

// breaks is the line from which on a text is not read, with a given error: without
// it and those below, it is.
func (r *yamlReader) breaks(from int, message string) (line int, found bool) {
	if len(r.text) > maxBreaks {
		return 0, false
	}
	read := func(lines int) error {
		text := r.text
		if lines < len(r.lines) {
			text = text[:r.lines[lines]]
		}
		var doc yaml.Node
		if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != io.EOF {
			return err
		}
		return nil
	}
	good, bad := from-1, len(r.lines)
	if good < 0 || read(good) != nil {
		return 0, false
	}
	for bad-good > 1 {
		if half := (good + bad) / 2; read(half) == nil {
			good = half
		} else {
			bad = half
		}
	}
	err := read(bad)
	return bad, err != nil && err.Error() == message
}

func (r *yamlReader) problem(n *yaml.Node, format string, args ...any) Problems {
	return Problems{{Place: placeOf(r.pos(n)), Message: fmt.Sprintf(format, args...)}}
}

// pos is where a node begins; its column is counted in characters.
func (r *yamlReader) pos(n *yaml.Node) token.Pos {
	if n.Line < 1 || n.Line > len(r.lines) {
		return token.NoPos
	}
	at := r.lines[n.Line-1]
	for range n.Column - 1 {
		if at >= len(r.text) || r.text[at] == '\n' {
			break
		}
		_, size := utf8.DecodeRune(r.text[at:])
		at += size
	}
	return r.file.Pos(min(at, len(r.text)), token.NoRelPos)
}

func (r *yamlReader) expr(n *yaml.Node, depth int) (ast.Expr, error) {
	switch {
	case depth > maxNesting:
		return nil, r.problem(n, "nested more than %d deep", maxNesting)
	case n.Kind == yaml.AliasNode:
		return nil, r.problem(n, "an alias (*%s): data stands where it is used", clean(n.Value))
	case n.Anchor != "":
		return nil, r.problem(n, "an anchor (&%s): data stands where it is used", clean(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		return nil, r.problem(n, "a tag (%s): data is what it looks like", clean(n.Tag))
	}
	switch n.Kind {
	case yaml.MappingNode:
		return r.mapping(n, depth)
	case yaml.SequenceNode:
		list := &ast.ListLit{Lbrack: r.pos(n)}
		for _, item := range n.Content {
			e, err := r.expr(item, depth+1)
			if err != nil {
				return nil, err
			}
			list.Elts = append(list.Elts, e)
		}
		return list, nil
	case yaml.ScalarNode:
		return r.scalar(n)
	}
	return nil, r.problem(n, "no value")
}

func (r *yamlReader) mapping(n *yaml.Node, depth int) (*ast.StructLit, error) {
	if n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		if _, err := r.expr(&yaml.Node{Kind: yaml.ScalarNode, Anchor: n.Anchor, Style: n.Style, Tag: n.Tag, Line: n.Line, Column: n.Column}, depth); err != nil {
			return nil, err
		}
	}
	out := &ast.StructLit{Lbrace: r.pos(n)}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 || key.ShortTag() == "!!merge" {
			return nil, r.problem(key, "a key is a text, without anchor, tag or merge")
		}
		if tag := key.ShortTag(); tag != "!!str" && tag != "!!timestamp" {
			return nil, r.problem(key, "the key %s is no text; write it in quotes", clean(key.Value))
		}
		value, err := r.expr(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		label := &ast.BasicLit{Kind: token.STRING, Value: literal.String.Quote(key.Value), ValuePos: r.pos(key)}
		out.Elts = append(out.Elts, &ast.Field{Label: label, Value: value})
	}
	return out, nil
}

// wholeNumber is a number that YAML and JSON read alike.
var wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (r *yamlReader) scalar(n *yaml.Node) (ast.Expr, error) {
	lit := &ast.BasicLit{ValuePos: r.pos(n)}
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp":
		lit.Kind, lit.Value = token.STRING, literal.String.Quote(n.Value)
	case "!!bool":
		lit.Kind, lit.Value = token.FALSE, "false"
		if strings.EqualFold(n.Value, "true") {
			lit.Kind, lit.Value = token.TRUE, "true"
		}
	case "!!null":
		lit.Kind, lit.Value = token.NULL, "null"
	case "!!int", "!!float":
		if !wholeNumber.MatchString(n.Value) {
			return nil, r.problem(n, "%s is read as different numbers by different programs; write a text in quotes, or a whole number", quoteName(n.Value))
		}
		digits, negative := strings.CutPrefix(n.Value, "-")
		lit.Kind, lit.Value = token.INT, digits
		if negative {
			return &ast.UnaryExpr{Op: token.SUB, OpPos: lit.ValuePos, X: lit}, nil
		}
	default:
		return nil, r.problem(n, "%s: a value of type %s, which JSON does not have", quoteName(n.Value), clean(tag))
	}
	return lit, nil
}

// tooDeep finds a line on which so much may begin that the reader, which recurses
// and takes time quadratic in it, is not to see it: flow brackets that are open,
// indicators of nested sequences on one line, columns of indentation.
func (r *yamlReader) tooDeep(name string) (Place, bool) {
	open, line, start := 0, 1, 0
	dashes := 0
	for i, b := range r.text {
		switch b {
		case '\n':
			line, start, dashes = line+1, i+1, 0
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		case '-', '?', ':':
			if i+1 < len(r.text) && slices.Contains([]byte(" \t\r\n"), r.text[i+1]) {
				dashes++
			}
		}
		if open+dashes > maxNesting {
			return Place{name, line, i - start + 1}, true
		}
	}
	return Place{}, false
}
