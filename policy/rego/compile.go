package rego

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writmesh/writ/cue/model"
)

// A kind is one of the two things that Rego is for: guards, and rules that are
// computed.
type kind struct {
	dir    string // the folder, and the first part of the names of its packages
	noun   string // a module of it, to people
	schema *schema
	read   []string // the rules that are read from outside
	hint   string   // says so
	check  func(m *module, problems *model.Problems)
}

var guardKind = &kind{
	dir: "guard", noun: "guard", schema: schemaOf(reflect.TypeFor[Input]()),
	read: append(slices.Clone(verdicts), checkedRule),
	hint: "the rules of a guard that are read are deny, warn, require_approval and checked", check: checkGuard,
}

var generateKind = &kind{
	dir: "generate", noun: "generator", schema: schemaOf(reflect.TypeFor[generatorInput]()),
	read: []string{rulesRule},
	hint: "what is read of a generator is rules", check: checkGenerator,
}

// Guards are compiled guards. They do not change; evaluate them as often as
// need be.
type Guards struct{ program }

// A program is the compiled modules of one kind.
type program struct {
	kind     *kind
	modules  []*module // sorted by name
	compiler *ast.Compiler
}

// A module is one file.
type module struct {
	kind   *kind
	name   string // the file's stem
	pkg    string // the last part of the package's name
	file   string
	test   bool // whether it holds tests of others
	parsed *ast.Module
	asks   map[string]bool // which of the rules of verdicts it has
	reads  []ast.Ref       // every reference into input, as far as it is constant
}

// verdicts are the rules of a guard whose items are read.
var verdicts = []string{"deny", "warn", "require_approval"}

const checkedRule = "checked"

// placed is the name under which rules that are read are compiled a second time,
// each yielding [item, line, column]: a set does not say which rule put an item
// into it. No rule can be written with this name.
func placed(name string) string { return "$" + name }

var stemPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// Compile checks guards, given by path. Their tests are parsed only: [CheckTests]
// checks them. The error is [model.Problems]: every one that can be found at
// once.
func Compile(files map[string][]byte) (*Guards, error) {
	p, err := guardKind.compile(files)
	if err != nil {
		return nil, err
	}
	return &Guards{*p}, nil
}

// compile checks modules of one kind.
func (k *kind) compile(files map[string][]byte) (*program, error) {
	modules, _, err := k.load(files)
	if err != nil {
		return nil, err
	}
	packages := packagesOf(modules)
	// First as written, so that messages speak of what is written.
	parsed := make(map[string]*ast.Module)
	for _, m := range modules {
		parsed[m.file] = m.parsed.Copy()
	}
	compiler, err := k.compileModules(parsed, true)
	if err != nil {
		return nil, err
	}
	var problems model.Problems
	for _, m := range modules {
		m.checkOthers(compiler, packages, &problems)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	for _, m := range modules {
		parsed[m.file] = m.withPlaces()
	}
	if compiler, err = k.compileModules(parsed, true); err != nil {
		return nil, fmt.Errorf("compile %ss with places: %w", k.noun, err)
	}
	return &program{k, modules, compiler}, nil
}

// load parses files of one kind and looks at each by itself. Tests are parsed,
// and looked at by CheckTests.
func (k *kind) load(files map[string][]byte) (modules, tests []*module, err error) {
	var problems model.Problems
	total := 0
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if total += len(files[file]); len(files[file]) > maxFile || total > maxTotal || len(files) > maxFiles {
			problems.Add(model.Place{File: file}, "Rego is limited to %d files, %d bytes each and %d together", maxFiles, maxFile, maxTotal)
			return nil, nil, problems.Err()
		}
		switch m := k.parse(file, files[file], &problems); {
		case m == nil:
		case m.test:
			tests = append(tests, m)
		default:
			modules = append(modules, m)
		}
	}
	slices.SortFunc(modules, func(a, b *module) int { return strings.Compare(a.name, b.name) })
	packages := make(map[string]*module)
	for _, m := range modules {
		if other := packages[m.pkg]; other != nil {
			problems = append(problems, model.Problem{
				Place:   model.Place{File: m.file},
				Message: fmt.Sprintf("package %s.%s is in two files", k.dir, m.pkg),
				Also:    []model.Place{{File: other.file}},
			})
		}
		packages[m.pkg] = m
	}
	used := names(modules)
	for _, m := range modules {
		m.checkRules(used, &problems)
		m.checkReferences(packages, &problems)
	}
	return modules, tests, problems.Err()
}

func packagesOf(modules []*module) map[string]*module {
	packages := make(map[string]*module)
	for _, m := range modules {
		packages[m.pkg] = m
	}
	return packages
}

// parse reads one file. The result is nil if it is none of the kind, or a
// problem.
func (k *kind) parse(file string, source []byte, problems *model.Problems) *module {
	stem, isRego := strings.CutSuffix(path.Base(file), ".rego")
	if !isRego || path.Dir(file) != k.dir {
		problems.Add(model.Place{File: file}, "a %s is a file %s/NAME.rego", k.noun, k.dir)
		return nil
	}
	parsed, err := ast.ParseModuleWithOpts(file, string(source), ast.ParserOptions{
		Capabilities: capabilities(),
		RegoVersion:  ast.RegoV1,
	})
	if err != nil {
		addErrors(problems, file, err)
		return nil
	}
	if at := tooDeep(parsed); at != nil {
		*problems = append(*problems, model.Problem{
			Place:   place(at, file),
			Message: fmt.Sprintf("comprehensions and every are nested more than %d deep", maxClosures),
			Hint:    "give the inner ones a name, as a rule or a function",
		})
		return nil
	}
	if !stemPattern.MatchString(stem) {
		problems.Add(model.Place{File: file}, "%q is no name for a %s: lower case letters, digits, '-' and '_'", stem, k.noun)
		return nil
	}
	m := &module{
		kind: k, name: stem, pkg: strings.ReplaceAll(stem, "-", "_"), file: file, parsed: parsed,
		test: strings.HasSuffix(stem, testSuffix), asks: make(map[string]bool),
	}
	if m.test {
		return m
	}
	if !m.isPackage() {
		problems.Add(place(parsed.Package.Location, file), "this is package %s; a %s in %s is package %s.%s",
			packageName(parsed), k.noun, file, k.dir, m.pkg)
		return nil
	}
	return m
}

// tooDeep is where comprehensions are nested deeper than the compiler bears; nil
// where they are not.
func tooDeep(parsed *ast.Module) (at *ast.Location) {
	depth := 0
	step := func(x any, by int) {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			depth += by
		case *ast.Every:
			depth += by
		case *ast.Expr:
			if depth > maxClosures && at == nil {
				at = x.Location
			}
		}
	}
	ast.NewBeforeAfterVisitor(
		func(x any) bool { step(x, 1); return false },
		func(x any) { step(x, -1) },
	).Walk(parsed)
	return at
}

// isPackage reports whether the module's package is named as its file is.
func (m *module) isPackage() bool {
	return m.parsed.Package.Path.Equal(ast.Ref{ast.DefaultRootDocument, ast.StringTerm(m.kind.dir), ast.StringTerm(m.pkg)})
}

func packageName(parsed *ast.Module) string {
	return strings.TrimPrefix(parsed.Package.Path.String(), "data.")
}

// names are all names that the modules' rules mention, heads excepted: whatever
// is not among them nothing refers to.
func names(modules []*module) map[string]bool {
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
	for _, m := range modules {
		for _, rule := range m.parsed.Rules {
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
		for _, i := range m.parsed.Imports {
			note(i.Path)
		}
	}
	return used
}

// ruleName is the name of a rule, and whether it is all of its head: no arguments,
// nothing in brackets.
func ruleName(rule *ast.Rule) (name string, simple bool) {
	name = string(rule.Head.Name)
	ref := rule.Head.Ref()
	if name == "" && len(ref) > 0 {
		if v, ok := ref[0].Value.(ast.Var); ok {
			name = string(v)
		}
	}
	return name, len(rule.Head.Args) == 0 && len(ref) == 1
}

// checkRules sees that the module's rules are those that are read, and of their
// kind, or are referred to.
func (m *module) checkRules(used map[string]bool, problems *model.Problems) {
	for _, rule := range m.parsed.Rules {
		if name, _ := ruleName(rule); !slices.Contains(m.kind.read, name) && !used[name] {
			*problems = append(*problems, model.Problem{
				Place:   place(rule.Location, m.file),
				Message: fmt.Sprintf("nothing refers to rule %s", name),
				Hint:    m.kind.hint,
			})
		}
	}
	m.kind.check(m, problems)
}

// checkGuard sees that what is read of a guard is there, and of its kind.
func checkGuard(m *module, problems *model.Problems) {
	checked := false
	for _, rule := range m.parsed.Rules {
		at := place(rule.Location, m.file)
		name, simple := ruleName(rule)
		switch {
		case slices.Contains(verdicts, name):
			m.asks[name] = true
			if !simple || rule.Head.RuleKind() != ast.MultiValue {
				problems.Add(at, "%s must be written %q", name, name+" contains … if { … }")
			}
		case name == checkedRule:
			checked = true
			if !simple || rule.Head.RuleKind() != ast.SingleValue {
				problems.Add(at, "%s must be written %q", name, name+" := NUMBER")
			}
		}
	}
	at := place(m.parsed.Package.Location, m.file)
	if len(m.asks) == 0 {
		problems.Add(at, "guard %s has none of deny, warn and require_approval", m.name)
	}
	if !checked {
		*problems = append(*problems, model.Problem{
			Place:   at,
			Message: fmt.Sprintf("guard %s does not say how many things it checked", m.name),
			Hint:    "for example: checked := count(input.network.rules)",
		})
	}
}

// checkReferences sees that the module reads input and its own kind only, and
// replaces nothing but input. It notes what of the input is read.
func (m *module) checkReferences(packages map[string]*module, problems *model.Problems) {
	ast.WalkRefs(m.parsed, func(ref ast.Ref) bool {
		switch {
		case ref.HasPrefix(ast.InputRootRef):
			m.reads = append(m.reads, ref.ConstantPrefix())
		case ref.HasPrefix(ast.DefaultRootRef):
			known := len(ref) >= 3 && ref[1].Equal(ast.StringTerm(m.kind.dir))
			if known {
				name, ok := ref[2].Value.(ast.String)
				known = ok && packages[string(name)] != nil
			}
			if !known {
				*problems = append(*problems, model.Problem{
					Place:   place(ref[0].Location, m.file),
					Message: fmt.Sprintf("undefined ref: %s", ref),
					Hint:    fmt.Sprintf("a %s sees input, and other %ss as data.%s.NAME", m.kind.noun, m.kind.noun, m.kind.dir),
				})
			}
		}
		return false
	})
	// A bare "input" in a term is a reference of one element, seen above.
	ast.WalkWiths(m.parsed, func(with *ast.With) bool {
		ref, ok := with.Target.Value.(ast.Ref)
		switch {
		case ok && ref.HasPrefix(ast.InputRootRef):
		case m.test && (ok && ref.HasPrefix(ast.DefaultRootRef) || m.imports(with.Target)):
		case m.test:
			problems.Add(place(with.Location, m.file), "with replaces %s: a test may replace input and rules, no function", with.Target)
		default:
			problems.Add(place(with.Location, m.file), "with replaces %s: a %s may replace nothing but input", with.Target, m.kind.noun)
		}
		return false
	})
}

// imports reports whether a term begins with a name that the module imports:
// input, or a part of data, as everything that is imported.
func (m *module) imports(t *ast.Term) bool {
	name, ok := t.Value.(ast.Var)
	if ref, isRef := t.Value.(ast.Ref); isRef && len(ref) > 0 {
		name, ok = ref[0].Value.(ast.Var)
	}
	return ok && slices.ContainsFunc(m.parsed.Imports, func(i *ast.Import) bool { return i.Name() == name })
}

// checkOthers sees that what a module reads of others is there. It looks at the
// compiled module, where every reference is whole, imports resolved.
func (m *module) checkOthers(compiler *ast.Compiler, packages map[string]*module, problems *model.Problems) {
	ast.WalkRefs(compiler.Modules[m.file], func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) < 4 {
			return false
		}
		other, rule := packages[term(ref[2])], term(ref[3])
		if other == nil || rule == "" {
			problems.Add(place(ref[0].Location, m.file), "a rule of another %s is named, not computed", m.kind.noun)
			return false
		}
		for _, r := range other.parsed.Rules {
			if name, ok := r.Head.Ref()[0].Value.(ast.Var); ok && string(name) == rule {
				return false
			}
		}
		problems.Add(place(ref[0].Location, m.file), "undefined ref: %s", ref)
		return false
	})
}

// term is a constant text in a reference, or empty.
func term(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

// withPlaces is the module with the rules that are read doubled, where their
// places matter.
func (m *module) withPlaces() *ast.Module {
	parsed := m.parsed.Copy()
	for _, rule := range m.parsed.Rules {
		name, _ := ruleName(rule)
		var item *ast.Term
		double := rule.Copy()
		switch {
		case slices.Contains(verdicts, name) && m.kind == guardKind:
			item = double.Head.Key
		case name == rulesRule && m.kind == generateKind:
			item = ast.ArrayTerm(double.Head.Ref()[1], double.Head.Value)
			item.SetLocation(rule.Head.Location)
		default:
			continue
		}
		at := place(rule.Location, m.file)
		key := ast.ArrayTerm(item, ast.IntNumberTerm(at.Line), ast.IntNumberTerm(at.Col))
		key.SetLocation(rule.Head.Location)
		double.Head = ast.NewHead(ast.Var(placed(name)), key)
		double.Head.Location = rule.Head.Location
		double.Module = parsed
		parsed.Rules = append(parsed.Rules, double)
	}
	return parsed
}

// compileModules compiles modules in the language of this package. It consumes
// them. Typed is whether input has the fields that it has: what a test takes for
// input has those that the test writes.
func (k *kind) compileModules(modules map[string]*ast.Module, typed bool) (*ast.Compiler, error) {
	schemas := ast.NewSchemaSet()
	if typed {
		raw, err := k.schema.raw()
		if err != nil {
			return nil, err
		}
		schemas.Put(ast.SchemaRootRef, raw)
	}
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
		addErrors(&problems, k.dir, compiler.Errors)
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
