package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/print"

	"github.com/writmesh/writ/cue/model"
)

// An evaluation is a program over one input. It belongs to one goroutine.
type evaluation struct {
	*program
	input   *ast.Term // nil for none
	store   storage.Store
	txn     storage.Transaction
	printed []string
}

// over begins an evaluation. Data holds nothing but the program.
func (p *program) over(ctx context.Context, document any) (*evaluation, error) {
	e := &evaluation{program: p, store: inmem.New(), printed: []string{}}
	if document != nil {
		value, err := ast.InterfaceToValue(document)
		if err != nil {
			return nil, fmt.Errorf("encode the input: %w", err)
		}
		e.input = ast.NewTerm(value)
	}
	var err error
	e.txn, err = e.store.NewTransaction(ctx)
	return e, err
}

func (e *evaluation) close(ctx context.Context) { e.store.Abort(ctx, e.txn) }

// document is a value as the modules of the kind see it.
func (k *kind) document(in any) (any, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return k.schema.fill(v), nil
}

// ask evaluates one rule of a module, with and without OPA's rule index, and
// returns its value; nil where it is undefined.
func (e *evaluation) ask(ctx context.Context, m *module, rule string) (any, error) {
	indexed, err := e.evaluate(ctx, m, rule, true, nil)
	if err != nil {
		return nil, err
	}
	plain, err := e.evaluate(ctx, m, rule, false, nil)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(indexed, plain) {
		return nil, m.problem("%s differs with and without the rule index: this is a defect of the engine", strings.TrimPrefix(rule, "$"))
	}
	return plain, nil
}

// evaluate is the value of one rule of a module; nil where it is undefined. Of
// several evaluations of one rule, the one with the index prints.
func (e *evaluation) evaluate(ctx context.Context, m *module, rule string, indexing bool, tracer topdown.QueryTracer) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, m.explain(ctx, err)
	}
	cancel := topdown.NewCancel()
	stop := context.AfterFunc(ctx, cancel.Cancel)
	defer stop()
	answer := ast.VarTerm("answer")
	query := ast.NewBody(ast.Equality.Expr(ast.RefTerm(ast.DefaultRootDocument,
		ast.StringTerm(m.kind.dir), ast.StringTerm(m.pkg), ast.StringTerm(rule)), answer))
	q := topdown.NewQuery(query).
		WithCompiler(e.compiler).
		WithStore(e.store).
		WithTransaction(e.txn).
		WithInput(e.input).
		WithCancel(cancel).
		WithIndexing(indexing).
		WithStrictBuiltinErrors(true).
		WithSeed(bytes.NewReader(nil))
	if indexing { // once is enough
		q = q.WithPrintHook((*printer)(&e.printed))
	}
	if tracer != nil {
		q = q.WithQueryTracer(tracer)
	}
	results, err := q.Run(ctx)
	if err != nil {
		return nil, m.explain(ctx, err)
	}
	if len(results) == 0 {
		return nil, nil
	}
	// Sets become sorted lists.
	return ast.JSONWithOpt(results[0]["answer"].Value, ast.JSONOpt{SortSets: true})
}

// errSlow is the cause of a context that ended after maxTime.
var errSlow = errors.New("an evaluation takes too long")

// explain makes a problem of an error that the module caused.
func (m *module) explain(ctx context.Context, err error) error {
	noun := m.kind.noun
	if m.test {
		noun = "test of a " + noun
	}
	if topdown.IsCancel(err) || ctx.Err() != nil {
		switch cause := context.Cause(ctx); cause {
		case errSlow:
			return m.problem("%s %s does not end: the %ss together may take %s", noun, m.name, m.kind.noun, maxTime)
		case context.DeadlineExceeded: // the child's
			return m.problem("%s %s does not end: the time of this policy's evaluation is used up", noun, m.name)
		default:
			return cause
		}
	}
	var e *topdown.Error
	if errors.As(err, &e) {
		message, _, _ := strings.Cut(e.Message, "\n")
		return model.Problems{{Place: place(e.Location, m.file), Message: strings.TrimSuffix(message, ":")}}
	}
	return m.problem("%s %s: %v", noun, m.name, err)
}

// problem is one that belongs to the module as a whole.
func (m *module) problem(format string, args ...any) error {
	return model.Problems{{Place: model.Place{File: m.file}, Message: fmt.Sprintf(format, args...)}}
}

// A printer keeps the first lines that modules print, each once: rules are
// evaluated more often than they are written.
type printer []string

func (p *printer) Print(c print.Context, text string) error {
	if len(*p) < maxPrinted {
		text = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return ' '
		}, text[:min(len(text), maxText)])
		if line := fmt.Sprintf("%s: %s", place(c.Location, "rego"), text); !slices.Contains(*p, line) {
			*p = append(*p, line)
		}
	}
	return nil
}
