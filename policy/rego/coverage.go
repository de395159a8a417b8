package rego

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Coverage is which lines of guards and generators their tests have looked at. A
// line counts where a rule's head or an expression of its body begins. A head is
// covered when the rule was true, an expression when it was evaluated.
type Coverage struct {
	Files   []FileCoverage `json:"files"` // guards, then generators, by name
	Lines   int            `json:"lines"`
	Covered int            `json:"covered"`
}

// A FileCoverage is that of one module.
type FileCoverage struct {
	File      string `json:"file"`
	Lines     int    `json:"lines"`
	Covered   int    `json:"covered"`
	Uncovered []int  `json:"uncovered,omitempty"` // line numbers
}

func (c *Coverage) add(f FileCoverage) {
	c.Files = append(c.Files, f)
	c.Lines += f.Lines
	c.Covered += f.Covered
}

// A tracer notes which lines an evaluation looks at.
type tracer struct{ seen map[line]bool }

type line struct {
	file string
	row  int
}

func newTracer() *tracer { return &tracer{make(map[line]bool)} }

// asTracer is t for the engine; nil where there is none.
func (t *tracer) asTracer() topdown.QueryTracer {
	if t == nil {
		return nil
	}
	return t
}

func (t *tracer) Enabled() bool               { return true }
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

func (t *tracer) TraceEvent(e topdown.Event) {
	var at *ast.Location
	switch node := e.Node.(type) {
	case *ast.Rule:
		if e.Op == topdown.ExitOp && node.Head != nil {
			at = node.Head.Location
		}
	case *ast.Expr:
		if e.Op == topdown.EvalOp {
			at = node.Location
		}
	}
	if at != nil && at.File != "" {
		t.seen[line{at.File, at.Row}] = true
	}
}

// of is what was seen of a module.
func (t *tracer) of(m *module) FileCoverage {
	rows := make(map[int]bool)
	note := func(at *ast.Location) {
		if at != nil && at.Row > 0 {
			rows[at.Row] = true
		}
	}
	ast.WalkRules(m.parsed, func(r *ast.Rule) bool {
		note(r.Head.Location)
		return false
	})
	ast.WalkExprs(m.parsed, func(e *ast.Expr) bool {
		if _, declares := e.Terms.(*ast.SomeDecl); !declares {
			note(e.Location)
		}
		return false
	})
	f := FileCoverage{File: m.file, Lines: len(rows)}
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		if t.seen[line{m.file, row}] {
			f.Covered++
		} else {
			f.Uncovered = append(f.Uncovered, row)
		}
	}
	return f
}
