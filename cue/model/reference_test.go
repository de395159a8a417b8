package model

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	texttemplate "text/template"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/format"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"
	"github.com/rogpeppe/go-internal/txtar"
)

const (
	referencePage     = "../README.md"
	referenceTemplate = "testdata/reference.md"
	examplesDir       = "../../examples/language"
)

// TestReference holds that the reference page says what the schema, the examples
// and the answers to mistakes say. UPDATE=1 writes it.
func TestReference(t *testing.T) {
	got, err := newReference(t).page()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(referencePage, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("cue/README.md is not what the schema, the examples and testdata/reference.md make; run: UPDATE=1 go test ./cue/model -run TestReference")
	}
}

// TestExamplesLoad holds that each example of the language is a policy without
// problems, with tests, and as policy fmt writes it.
func TestExamplesLoad(t *testing.T) {
	dirs, err := os.ReadDir(examplesDir)
	if err != nil || len(dirs) < 10 {
		t.Fatalf("%d examples, %v", len(dirs), err)
	}
	for _, d := range dirs {
		if some, err := fs.Glob(os.DirFS(path.Join(examplesDir, d.Name())), "*.cue"); err != nil || len(some) == 0 {
			continue
		}
		p, err := Load(os.DirFS(path.Join(examplesDir, d.Name())))
		if err != nil {
			t.Errorf("%s: %v", d.Name(), err)
		} else if len(p.Tests) == 0 {
			t.Errorf("%s: no tests", d.Name())
		}
		dir := os.DirFS(path.Join(examplesDir, d.Name()))
		err = fs.WalkDir(dir, ".", func(name string, _ fs.DirEntry, err error) error {
			if err != nil || path.Ext(name) != ".cue" {
				return err
			}
			text, err := fs.ReadFile(dir, name)
			if err != nil {
				return err
			}
			if want, err := Format(name, text); err != nil || string(want) != string(text) {
				t.Errorf("%s/%s is not formatted: %v", d.Name(), name, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A reference makes the page of its template.
type reference struct {
	t       *testing.T
	defs    map[string]*ast.Field // the schema's definitions, by name with '#'
	order   []string
	shown   map[string]bool // definitions whose fields were listed
	example map[string]bool // examples that were shown
}

func newReference(t *testing.T) *reference {
	f, err := parser.ParseFile("schema.cue", schemaText, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{t: t, defs: map[string]*ast.Field{}, shown: map[string]bool{}, example: map[string]bool{}}
	for _, d := range f.Decls {
		if f, ok := d.(*ast.Field); ok {
			name := labelText(f.Label)
			r.defs[name] = f
			r.order = append(r.order, name)
		}
	}
	return r
}

func (r *reference) page() ([]byte, error) {
	text, err := os.ReadFile(referenceTemplate)
	if err != nil {
		return nil, err
	}
	tmpl, err := texttemplate.New("reference").Option("missingkey=error").Funcs(texttemplate.FuncMap{
		"fields": r.fields, "doc": r.doc, "example": r.file, "refused": r.refused, "warned": r.warned, "contents": r.contents(string(text)),
		"limits": r.limits, "unenforced": unenforcedText,
	}).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, nil); err != nil {
		return nil, err
	}
	page := strings.ReplaceAll(joined.ReplaceAllString(wrap(b.String()), ""), mark, "")
	return []byte(page), r.complete(page)
}

// complete holds that nothing of the schema is left out, that the blocks of a
// policy come in the schema's order, and that every example is shown.
func (r *reference) complete(page string) error {
	var errs []error
	for _, name := range r.order {
		s, ok := r.defs[name].Value.(*ast.StructLit)
		if ok && !pattern(s) && name != "#Policy" && !r.shown[name] {
			errs = append(errs, fmt.Errorf("%s is in the schema and not on the page", name))
		}
	}
	at := 0
	for _, d := range r.defs["#Policy"].Value.(*ast.StructLit).Elts {
		heading := "\n## `" + labelText(d.(*ast.Field).Label) + "`\n"
		i := strings.Index(page, heading)
		if i < at {
			errs = append(errs, fmt.Errorf("the page has no heading %q after the one before it", strings.TrimSpace(heading)))
		}
		at = max(at, i)
	}
	dirs, err := os.ReadDir(examplesDir)
	errs = append(errs, err)
	for _, d := range dirs {
		if some, err := fs.Glob(os.DirFS(path.Join(examplesDir, d.Name())), "*.cue"); err == nil && len(some) > 0 && !r.example[d.Name()] {
			errs = append(errs, fmt.Errorf("%s/%s is not on the page", examplesDir, d.Name()))
		}
	}
	return errors.Join(errs...)
}

var heading = regexp.MustCompile("(?m)^## (.*)$")

// contents lists the page's headings.
func (r *reference) contents(page string) func() string {
	return func() string {
		var links []string
		for _, m := range heading.FindAllStringSubmatch(page, -1) {
			links = append(links, fmt.Sprintf("[%s](#%s)", m[1], anchor(m[1])))
		}
		return strings.Join(links, " · ")
	}
}

// anchor is where the forges put a heading.
func anchor(heading string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(heading) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteRune(c)
		case c == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

func labelText(l ast.Label) string {
	name, _, err := ast.LabelName(l)
	if err != nil {
		return ""
	}
	return name
}

// doc is what the schema says about a definition, or a field of one ("Policy.rules").
func (r *reference) doc(name string) (string, error) {
	def, field, _ := strings.Cut(name, ".")
	f := r.defs["#"+def]
	if f == nil {
		return "", fmt.Errorf("no definition #%s", def)
	}
	if field == "" {
		return comment(f), nil
	}
	for _, d := range f.Value.(*ast.StructLit).Elts {
		if inner, ok := d.(*ast.Field); ok && labelText(inner.Label) == field {
			return comment(inner), nil
		}
	}
	return "", fmt.Errorf("#%s has no field %s", def, field)
}

// comment is what stands above a field or beside it, as one text.
func comment(f *ast.Field) string {
	var out []string
	for _, n := range []ast.Node{f, f.Label, f.Value} {
		for _, g := range ast.Comments(n) {
			text := strings.Join(strings.Fields(g.Text()), " ")
			if text != "" && !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
	}
	return quoted.ReplaceAllString(strings.Join(out, " "), "`$1`")
}

var quoted = regexp.MustCompile(`"([^"]*)"`)

// fields is a table of a definition's fields.
func (r *reference) fields(name string) (string, error) {
	f := r.defs["#"+name]
	if f == nil {
		return "", fmt.Errorf("no definition #%s", name)
	}
	r.shown["#"+name] = true
	var b strings.Builder
	b.WriteString("| field | is | needed | meaning |\n|---|---|---|---|\n")
	r.rows(&b, "", f.Value.(*ast.StructLit))
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func (r *reference) rows(b *strings.Builder, prefix string, s *ast.StructLit) {
	for _, d := range s.Elts {
		f, ok := d.(*ast.Field)
		if !ok {
			continue
		}
		name := prefix + labelText(f.Label)
		must := ""
		if f.Constraint == token.NOT {
			must = "yes"
		}
		value, def := splitDefault(f.Value)
		if def != "" {
			must = "default `" + def + "`"
		}
		inner, nested := byName(value)
		kind := r.kind(value)
		if nested {
			kind = "by name"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, kind, must, cell(comment(f)))
		if nested {
			r.rows(b, name+".NAME.", inner)
		}
	}
}

// byName is the struct in {[string]: {…}}.
func byName(e ast.Expr) (*ast.StructLit, bool) {
	s, ok := e.(*ast.StructLit)
	if !ok || !pattern(s) {
		return nil, false
	}
	inner, ok := s.Elts[0].(*ast.Field).Value.(*ast.StructLit)
	return inner, ok
}

// pattern reports whether a struct has fields of any name, and no others.
func pattern(s *ast.StructLit) bool {
	if len(s.Elts) != 1 {
		return false
	}
	f, ok := s.Elts[0].(*ast.Field)
	if !ok {
		return false
	}
	_, ok = f.Label.(*ast.ListLit)
	return ok
}

// splitDefault takes *x off x | y.
func splitDefault(e ast.Expr) (ast.Expr, string) {
	if or, ok := e.(*ast.BinaryExpr); ok && or.Op == token.OR {
		if u, ok := or.X.(*ast.UnaryExpr); ok && u.Op == token.MUL {
			if text, err := format.Node(u.X); err == nil {
				return or.Y, string(text)
			}
		}
	}
	return e, ""
}

// words are the schema's names for a reader, and where they are told about.
var words = map[string]string{
	"#Principal":  "[user, group or tag](#selectors)",
	"#Selector":   "[selector](#selectors)",
	"#Difference": "[difference](#differences)",
	"#Ends":       "[selectors](#selectors)",
	"#Selectors":  "[selector, or list of them](#selectors)",
	"#Port":       "[port](#ports)",
	"#Time":       "[time](#times)",
	"#Membership": "[member](#groups)",
	"#Claim":      "[claim](#groups)",
	"#Window":     "[window](#hours)",
	"#Assertion":  "[assertion](#tests)",
	"string":      "text",
	"bool":        "true or false",
	"_":           "any JSON",
}

// kind says what a value is.
func (r *reference) kind(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		if w := words[e.Name]; w != "" {
			return w
		}
		r.t.Errorf("the page has no word for %s", e.Name)
	case *ast.ParenExpr:
		return r.kind(e.X)
	case *ast.BinaryExpr:
		return r.kind(e.X) + " or " + r.kind(e.Y)
	case *ast.ListLit:
		if len(e.Elts) == 1 {
			if more, ok := e.Elts[0].(*ast.Ellipsis); ok {
				return "list of " + r.kind(more.Type)
			}
		}
	case *ast.StructLit:
		if len(e.Elts) == 1 {
			if f, ok := e.Elts[0].(*ast.Field); ok {
				return "by name: " + r.kind(f.Value)
			}
		}
		var parts []string
		for _, d := range e.Elts {
			switch d := d.(type) {
			case *ast.EmbedDecl:
				parts = append(parts, r.kind(d.Expr))
			case *ast.Field:
				parts = append(parts, "with `"+labelText(d.Label)+"`")
			}
		}
		return strings.Join(parts, " ")
	}
	text, err := format.Node(e)
	if err != nil {
		r.t.Error(err)
	}
	return "`" + string(text) + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// file is a file of an example, without its package clause.
func (r *reference) file(name string) (string, error) {
	text, err := fs.ReadFile(os.DirFS(examplesDir), name)
	if err != nil {
		return "", err
	}
	dir, _, _ := strings.Cut(name, "/")
	r.example[dir] = true
	body := strings.TrimPrefix(strings.TrimPrefix(string(text), "package network\n\n"), "package network\n")
	lang := strings.TrimPrefix(path.Ext(name), ".")
	return fmt.Sprintf("[`examples/language/%s`](../examples/language/%s)\n\n```%s\n%s\n```", name, name, lang, strings.TrimSpace(body)), nil
}

// refused are answers to the mistakes in an archive of testdata: those that contain
// the texts.
func (r *reference) refused(archive string, texts ...string) (string, error) {
	ar, err := txtar.ParseFile("testdata/" + archive + ".txtar")
	if err != nil {
		return "", err
	}
	_, want := archiveFS(ar)
	var out []string
	for _, text := range texts {
		i := strings.Index(want, text)
		if i < 0 {
			return "", fmt.Errorf("%s says nothing like %q", archive, text)
		}
		line := want[strings.LastIndexByte(want[:i], '\n')+1:]
		line, rest, _ := strings.Cut(line, "\n")
		if m := placed.FindString(line); m != "" {
			line = line[len(m):]
		}
		out = append(out, line)
		for l := range strings.SplitSeq(rest, "\n") {
			if !strings.HasPrefix(l, "    hint: ") {
				break
			}
			out = append(out, l)
		}
	}
	return "Refused:\n\n```\n" + strings.Join(out, "\n") + "\n```" + mark, nil
}

// warned are the same of what is told without being refused.
func (r *reference) warned(archive string, texts ...string) (string, error) {
	text, err := r.refused(archive, texts...)
	return strings.Replace(text, "Refused:", "Warned of:", 1), err
}

// A list of mistakes ends with a mark, by which two that follow one another become
// one.
const mark = "\x00"

var joined = regexp.MustCompile("```" + mark + "\n\n?Refused:\n\n```\n")

// wrap breaks the lines of paragraphs; code, tables and headings stay.
func wrap(page string) string {
	var out, words []string
	flush := func() {
		line := ""
		for _, w := range words {
			if line != "" && len(line)+1+len(w) > 90 {
				out = append(out, line)
				line = ""
			}
			line = strings.TrimPrefix(line+" "+w, " ")
		}
		if line != "" {
			out = append(out, line)
		}
		words = nil
	}
	code := false
	for line := range strings.SplitSeq(page, "\n") {
		fence := strings.HasPrefix(line, "```")
		if code || fence || line == "" || strings.ContainsAny(line[:1], "|#<") || strings.HasPrefix(line, "     ") {
			flush()
			out = append(out, line)
			code = code != fence
			continue
		}
		words = append(words, strings.Fields(line)...)
	}
	flush()
	return strings.Join(out, "\n")
}

var placed = regexp.MustCompile(`^(warning: )?[^ :]+:\d+:\d+: `)

// limits are numbers that the page names.
func (r *reference) limits(name string) (string, error) {
	n, ok := map[string]int{
		"windows": maxWindows, "conditions": maxConditions, "postures": maxPostures, "capabilities": maxCapabilities,
		"exceptions": maxExceptions, "files": maxFiles, "bytes": maxBytes, "items": maxItems, "text": maxText, "endpoints": maxEndpoints,
	}[name]
	if !ok {
		return "", fmt.Errorf("no limit %q", name)
	}
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20), nil
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10), nil
	}
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits, nil
}

// unenforcedText lists what is refused by name.
func unenforcedText() string {
	var out []string
	for _, u := range unenforced {
		path := strings.Join(u.path, ".")
		out = append(out, "`"+strings.ReplaceAll(path, ".*", ".NAME")+"`")
	}
	return strings.Join(out, ", ")
}
