package model

import (
	"strings"

	"cuelang.org/go/cue/scanner"
	"cuelang.org/go/cue/token"
)

// maxNesting is how many tokens may lie on the way to one token: every bracket
// that is open there, and in each of them every token since the last comma.
// "a: b: c: 1", "1 + 1 + 1", "- - - 1" and "a.b.c" nest as "[[[1]]]" does, and
// the parser and the evaluator recurse over all of them: a file of three
// megabytes of "a:" overflows the stack, which no recover catches. People write
// below 100.
const maxNesting = 1000

// tooDeep finds the first token that is nested too deep.
//
// It is for telling people. In a file with a malformed interpolation the
// parser may see other tokens than are seen here; what this misses ends the
// child process that evaluates, and nothing else.
func tooDeep(name string, text []byte) (Place, bool) {
	file := token.NewFile(name, -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, func(token.Pos, string, []interface{}) {}, 0)

	type bracket struct {
		tokens        int
		interpolation bool
	}
	open := []bracket{{}}
	sum, interpolation := 0, false
	for {
		pos, tok, _ := s.Scan()
		top := &open[len(open)-1]
		switch tok {
		case token.EOF:
			return Place{}, false
		case token.COMMA:
			sum -= top.tokens
			top.tokens = 0
			continue
		case token.INTERPOLATION:
			interpolation = true // and an opening bracket follows
		case token.LPAREN, token.LBRACE, token.LBRACK:
			open = append(open, bracket{tokens: 0, interpolation: interpolation})
			top = &open[len(open)-2]
			interpolation = false
		case token.RPAREN, token.RBRACE, token.RBRACK:
			if len(open) == 1 {
				return Place{}, false // the parser says why
			}
			sum -= top.tokens
			open = open[:len(open)-1]
			if top.interpolation && tok == token.RPAREN {
				interpolation = strings.HasSuffix(s.ResumeInterpolation(), "(")
			}
			continue
		}
		top.tokens++
		if sum++; sum > maxNesting {
			return placeOf(pos), true
		}
	}
}
