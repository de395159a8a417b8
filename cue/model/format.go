package model

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"cuelang.org/go/cue/format"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/scanner"
	"cuelang.org/go/cue/token"
)

// Format is a CUE file as everybody writes it: what it means and its comments stay,
// and what is formatted is formatted to itself. The error is [Problems] where the
// file does not parse.
func Format(name string, text []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, Problems{{Place: Place{File: name}, Message: fmt.Sprintf("this file cannot be formatted: %v", r)}}
		}
	}()
	if len(text) > maxBytes {
		return nil, Problems{{Place: Place{File: name}, Message: fmt.Sprintf("larger than %d MiB", maxBytes>>20)}}
	}
	if at, deep := tooDeep(name, text); deep {
		return nil, Problems{{Place: at, Message: fmt.Sprintf("nested more than %d deep", maxNesting)}}
	}
	// Carriage returns and a byte order mark are no part of what is written.
	text = bytes.ReplaceAll(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), []byte("\r\n"), []byte("\n"))
	file, err := parser.ParseFile(name, text, parser.ParseComments)
	if err != nil {
		s := &syntax{names: map[string]bool{name: true}}
		return nil, s.told(err, nil).Err()
	}
	if out, err = format.Node(file); err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	// The formatter may need a second look at what it moved.
	for range maxFormats {
		again, err := parser.ParseFile(name, out, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("format %s: what comes out does not parse: %w", name, err)
		}
		next, err := format.Node(again)
		if err != nil {
			return nil, fmt.Errorf("format %s: %w", name, err)
		}
		if bytes.Equal(next, out) {
			if !sameTokens(text, out) {
				return nil, Problems{{Place: Place{File: name}, Message: "this file cannot be formatted: what comes out does not say the same"}}
			}
			return out, nil
		}
		out = next
	}
	return nil, fmt.Errorf("format %s: what comes out is formatted to something else each time", name)
}

// maxFormats is how often a file is formatted until nothing changes. Twice has been
// seen.
const maxFormats = 4

// sameTokens reports whether two files say the same: the same tokens, but for
// commas, which a line's end stands for, and the same comments, wherever they are
// put. Texts of several lines are indented anew.
func sameTokens(a, b []byte) bool {
	type said struct {
		tokens   []string
		comments []string
	}
	scan := func(text []byte) (out said) {
		file := token.NewFile("", -1, len(text))
		var s scanner.Scanner
		s.Init(file, text, func(token.Pos, string, []interface{}) {}, scanner.ScanComments)
		for {
			_, tok, lit := s.Scan()
			switch tok {
			case token.EOF:
				slices.Sort(out.comments)
				return out
			case token.COMMA:
			case token.COMMENT:
				out.comments = append(out.comments, strings.TrimSpace(lit))
			default:
				if strings.Contains(lit, "\n") {
					lit = strings.Join(strings.Fields(lit), " ")
				}
				out.tokens = append(out.tokens, tok.String()+" "+lit)
			}
		}
	}
	x, y := scan(a), scan(b)
	return slices.Equal(x.tokens, y.tokens) && slices.Equal(x.comments, y.comments)
}
