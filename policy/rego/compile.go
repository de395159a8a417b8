package rego

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writmesh/writ/cue/model"
)

// Guards are compiled guards. They do not change; evaluate them as often as
// need be.
type Guards struct {
	guards   []*guard // sorted by name
	compiler *ast.Compiler
}

// A guard is one file.
type guard struct {
	name   string // the file's stem
	pkg    string // the last part of the package's name
	file   string
	module *ast.Module
	asks   map[string]bool // which of the rules of verdicts it has
	reads  []ast.Ref       // every reference into input, as far as it is constant
}

// verdicts are the rules whose items are read.
var verdicts = []string{"deny", "warn", "require_approval"}

const checkedRule = "checked"

// placed is the name under which a verdict's rules are compiled a second time,
// each yielding [item, line, column]: a set does not say which rule put an item
// into it. No rule can be written with this name.
func placed(verdict string) string { return "$" + verdict }

var stemPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// Compile checks guards, given by path. The error is [model.Problems]: every
// one that can be found at once.
func Compile(files map[string][]byte) (*Guards, error) {
	g := new(Guards)
	var problems model.Problems
	total := 0
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if total += len(files[file]); len(files[file]) > maxFile || total > maxTotal || len(files) > maxFiles {
			problems.Add(model.Place{File: file}, "Rego is limited to %d files, %d bytes each and %d together", maxFiles, maxFile, maxTotal)
			return nil, problems.Err()
		}
		if guard := parse(file, files[file], &problems); guard != nil {
			g.guards = append(g.guards, guard)
		}
	}
	slices.SortFunc(g.guards, func(a, b *guard) int { return strings.Compare(a.name, b.name) })
	packages := make(map[string]*guard)
	for _, guard := range g.guards {
		if other := packages[guard.pkg]; other != nil {
			problems = append(problems, model.Problem{
				Place:   model.Place{File: guard.file},
				Message: fmt.Sprintf("package guard.%s is in two files", guard.pkg),
				Also:    []model.Place{{File: other.file}},
			})
		}
		packages[guard.pkg] = guard
	}
	used := names(g.guards)
	for _, guard := range g.guards {
		guard.checkRules(used, &problems)
		guard.checkReferences(packages, &problems)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}

	// First as written, so that messages speak of what is written.
	modules := make(map[string]*ast.Module)
	for _, guard := range g.guards {
		modules[guard.file] = guard.module.Copy()
	}
	compiler, err := compile(modules)
	if err != nil {
		return nil, err
	}
	for _, guard := range g.guards {
		checkOthers(compiler, guard.file, packages, &problems)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	for _, guard := range g.guards {
		modules[guard.file] = guard.withPlaces()
	}
	if g.compiler, err = compile(modules); err != nil {
		return nil, fmt.Errorf("compile guards with places: %w", err)
	}
	return g, nil
}

// parse reads one file. The result is nil if it is not a guard, or a problem.
func parse(file string, source []byte, problems *model.Problems) *guard {
	stem, isRego := strings.CutSuffix(path.Base(file), ".rego")
	if !isRego || path.Dir(file) != "guard" {
		problems.Add(model.Place{File: file}, "a guard is a file guard/NAME.rego")
		return nil
	}
	module, err := ast.ParseModuleWithOpts(file, string(source), ast.ParserOptions{
		Capabilities: capabilities(),
		RegoVersion:  ast.RegoV1,
	})
	if err != nil {
		addErrors(problems, file, err)
		return nil
	}
	if strings.HasSuffix(stem, "_test") {
		return nil
	}
	if !stemPattern.MatchString(stem) {
		problems.Add(model.Place{File: file}, "%q is no name for a guard: lower case letters, digits, '-' and '_'", stem)
		return nil
	}
	g := &guard{
		name: stem, pkg: strings.ReplaceAll(stem, "-", "_"), file: file, module: module,
		asks: make(map[string]bool),
	}
	want := ast.Ref{ast.DefaultRootDocument, ast.StringTerm("guard"), ast.StringTerm(g.pkg)}
	if !module.Package.Path.Equal(want) {
		problems.Add(place(module.Package.Location, file), "this is package %s; a guard in %s is package guard.%s",
			strings.TrimPrefix(module.Package.Path.String(), "data."), file, g.pkg)
		return nil
	}
	return g
}

// names are all names that the guards' rules mention, heads excepted: whatever
// is not among them nothing refers to.
func names(guards []*guard) map[string]bool {
	used := make(map[string]bool)
	note := func(x any) {
		ast.WalkTerms(x, func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Var:
				used[string(v)] = true
			case ast.String:
				used[string(v)] = true
			}
			return false
		})
	}
	for _, g := range guards {
		for _, rule := range g.module.Rules {
			for r := rule; r != nil; r = r.Else {
				note(r.Body)
				for _, arg := range r.Head.Args {
					note(arg)
				}
				if r.Head.Key != nil {
					note(r.Head.Key)
				}
				if r.Head.Value != nil {
					note(r.Head.Value)
				}
				for _, t := range r.Head.Reference[min(1, len(r.Head.Reference)):] {
					note(t)
				}
			}
		}
		for _, i := range g.module.Imports {
			note(i.Path)
		}
	}
	return used
}

// checkRules sees that the guard's rules are those that are read, and of their
// kind.
func (g *guard) checkRules(used map[string]bool, problems *model.Problems) {
	checked := false
	for _, rule := range g.module.Rules {
		head, at := rule.Head, place(rule.Location, g.file)
		name := string(head.Name)
		if ref := head.Ref(); name == "" && len(ref) > 0 {
			if v, ok := ref[0].Value.(ast.Var); ok {
				name = string(v)
			}
		}
		simple := len(head.Args) == 0 && len(head.Ref()) == 1
		switch {
		case slices.Contains(verdicts, name):
			g.asks[name] = true
			if !simple || head.RuleKind() != ast.MultiValue {
				problems.Add(at, "%s must be written %q", name, name+" contains … if { … }")
			}
		case name == checkedRule:
			checked = true
			if !simple || head.RuleKind() != ast.SingleValue {
				problems.Add(at, "%s must be written %q", name, name+" := NUMBER")
			}
		case !used[name]:
			*problems = append(*problems, model.Problem{
				Place:   at,
				Message: fmt.Sprintf("nothing refers to rule %s", name),
				Hint:    "the rules of a guard that are read are deny, warn, require_approval and checked",
			})
		}
	}
	at := place(g.module.Package.Location, g.file)
	if len(g.asks) == 0 {
		problems.Add(at, "guard %s has none of deny, warn and require_approval", g.name)
	}
	if !checked {
		*problems = append(*problems, model.Problem{
			Place:   at,
			Message: fmt.Sprintf("guard %s does not say how many things it checked", g.name),
			Hint:    "for example: checked := count(input.network.rules)",
		})
	}
}

// checkReferences sees that the guard reads input and other guards only, and
// replaces nothing but input. It notes what of the input is read.
func (g *guard) checkReferences(packages map[string]*guard, problems *model.Problems) {
	ast.WalkRefs(g.module, func(ref ast.Ref) bool {
		switch {
		case ref.HasPrefix(ast.InputRootRef):
			g.reads = append(g.reads, ref.ConstantPrefix())
		case ref.HasPrefix(ast.DefaultRootRef):
			known := len(ref) >= 3 && ref[1].Equal(ast.StringTerm("guard"))
			if known {
				name, ok := ref[2].Value.(ast.String)
				known = ok && packages[string(name)] != nil
			}
			if !known {
				*problems = append(*problems, model.Problem{
					Place:   place(ref[0].Location, g.file),
					Message: fmt.Sprintf("undefined ref: %s", ref),
					Hint:    "a guard sees input, and other guards as data.guard.NAME",
				})
			}
		}
		return false
	})
	// A bare "input" in a term is a reference of one element, seen above.
	ast.WalkWiths(g.module, func(with *ast.With) bool {
		if ref, ok := with.Target.Value.(ast.Ref); !ok || !ref.HasPrefix(ast.InputRootRef) {
			problems.Add(place(with.Location, g.file), "with replaces %s: a guard may replace nothing but input", with.Target)
		}
		return false
	})
}

// checkOthers sees that what a guard reads of guards is there. It looks at the
// compiled module, where every reference is whole, imports resolved.
func checkOthers(compiler *ast.Compiler, file string, packages map[string]*guard, problems *model.Problems) {
	ast.WalkRefs(compiler.Modules[file], func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) < 4 {
			return false
		}
		other, rule := packages[term(ref[2])], term(ref[3])
		if other == nil || rule == "" {
			problems.Add(place(ref[0].Location, file), "a rule of another guard is named, not computed")
			return false
		}
		for _, r := range other.module.Rules {
			if name, ok := r.Head.Ref()[0].Value.(ast.Var); ok && string(name) == rule {
				return false
			}
		}
		problems.Add(place(ref[0].Location, file), "undefined ref: %s", ref)
		return false
	})
}

// term is a constant text in a reference, or empty.
func term(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

// withPlaces is the guard's module with each verdict's rules doubled.
func (g *guard) withPlaces() *ast.Module {
	module := g.module.Copy()
	for _, rule := range g.module.Rules {
		name := string(rule.Head.Name)
		if !slices.Contains(verdicts, name) {
			continue
		}
		double := rule.Copy()
		at := place(rule.Location, g.file)
		double.Head.Name = ast.Var(placed(name))
		double.Head.SetRef(ast.Ref{ast.VarTerm(placed(name))})
		double.Head.Key = ast.ArrayTerm(double.Head.Key, ast.IntNumberTerm(at.Line), ast.IntNumberTerm(at.Col))
		double.Head.Key.SetLocation(rule.Head.Location)
		double.Module = module
		module.Rules = append(module.Rules, double)
	}
	return module
}

// compile compiles modules in the guards' language. It consumes them.
func compile(modules map[string]*ast.Module) (*ast.Compiler, error) {
	raw, err := inputSchema.raw()
	if err != nil {
		return nil, err
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, raw)
	compiler := ast.NewCompiler().
		WithCapabilities(capabilities()).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true).
		WithSchemas(schemas).
		WithUseTypeCheckAnnotations(false).
		WithEnablePrintStatements(true).
		SetErrorLimit(maxErrors)
	compiler.Compile(modules)
	if compiler.Failed() {
		var problems model.Problems
		addErrors(&problems, "guard", compiler.Errors)
		return nil, problems.Err()
	}
	return compiler, nil
}

// addErrors adds what OPA says.
func addErrors(problems *model.Problems, file string, err error) {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = ast.Errors{one}
	default:
		problems.Add(model.Place{File: file}, "%v", err)
		return
	}
	for _, e := range list {
		message, _, _ := strings.Cut(e.Message, "\n")
		*problems = append(*problems, model.Problem{Place: place(e.Location, file), Message: message, Hint: hint(e)})
	}
}

// hint is what else there is where a reference names nothing, and the types
// where they do not fit.
func hint(e *ast.Error) string {
	detail, ok := e.Details.(*ast.RefErrInvalidDetail)
	if !ok && e.Details != nil && e.Code == ast.TypeErr {
		line := strings.Join(strings.Fields(strings.Join(e.Details.Lines(), "; ")), " ")
		if len(line) > 200 {
			line = strings.ToValidUTF8(line[:200], "") + "…"
		}
		return line
	}
	if !ok || len(detail.OneOf) == 0 {
		return ""
	}
	var names []string
	for _, v := range detail.OneOf {
		if s, ok := v.(ast.String); ok {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	return "one of " + strings.Join(slices.Compact(names), ", ")
}

// place is OPA's location as ours.
func place(l *ast.Location, file string) model.Place {
	if l == nil || l.Row == 0 {
		return model.Place{File: file}
	}
	if l.File != "" {
		file = l.File
	}
	return model.Place{File: file, Line: l.Row, Col: max(l.Col, 1)} // the end of a file has column 0
}
