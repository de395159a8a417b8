package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

// A draft is a policy repository before it is written: texts, in the order in
// which they come out.
type draft struct {
	name, domain string
	literal      bool                // network.literalAddresses
	header       []string            // comments on the whole
	sections     map[string][]string // comments on what a file holds, by its name
	groups       []group
	tags         []tag
	hosts        []host
	services     []service
	postures     []posture
	routes       []route
	exit         *route // its prefix is zero
	rules        []rule
	tests        []test
	notes        [][]string // about entries that gave nothing
}

type group struct {
	name     string
	comments []string
	members  []entryText
}

// A entryText is an entry of a list with what was said of it.
type entryText struct {
	text     string
	comments []string
}

type tag struct {
	name     string
	comments []string
	owners   []string
}

type host struct {
	name     string
	comments []string
	prefix   netip.Prefix
}

type service struct {
	name     string
	comments []string
	ports    []string
}

type posture struct {
	name     string
	comments []string
	attrs    []attr // in the order written
}

type attr struct {
	name   string
	values []string
}

type route struct {
	prefix   netip.Prefix
	comments []string
	via      []string
}

type rule struct {
	name         string
	comments     []string
	from, to     []string
	allow        []string
	posture      []string
	capabilities []capability
	why          string
}

type capability struct {
	name  string
	value []byte // compact JSON
}

type test struct {
	name        string
	comments    []string
	allow, deny []assertion
	only        []assertion
}

type assertion struct {
	from, to   string
	fromList   []string // instead of from
	toList     []string // instead of to
	on         []string
	posture    []attr // one value each
	allowEmpty bool
}

// ticket finds the names of tickets in comments ("FIN-1182").
var ticket = regexp.MustCompile(`\b[A-Z][A-Z0-9]{1,9}-[0-9]{1,7}\b`)

// why is the tickets that comments name.
func why(comments []string) string {
	var found []string
	for _, c := range comments {
		for _, t := range ticket.FindAllString(c, -1) {
			if !slices.Contains(found, t) {
				found = append(found, t)
			}
		}
	}
	return strings.Join(found, ", ")
}

// A writer writes CUE.
type writer struct{ bytes.Buffer }

func (w *writer) f(format string, args ...any) { fmt.Fprintf(w, format, args...) }

func (w *writer) comments(indent string, list []string) {
	for _, c := range list {
		w.f("%s\n", strings.TrimRight(indent+"// "+c, " "))
	}
}

// quote is a text as a CUE string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r < ' ' || r == 0x7f || r == 0xfeff || r >= 0x80 && clean(string(r)) == " ":
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// bare tells labels that need no quotes; words of the language get them.
var bare = regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)

var reserved = []string{
	"true", "false", "null", "if", "for", "in", "let", "import", "package", "div", "mod", "quo", "rem",
	"bool", "bytes", "float", "int", "number", "string", "len", "and", "or", "close", "self", "try", "func", "else", "fallback", "otherwise",
	"uint", "uint8", "int8", "uint16", "int16", "rune", "uint32", "int32", "uint64", "int64", "uint128", "int128", "float32", "float64",
}

func label(s string) string {
	if bare.MatchString(s) && !slices.Contains(reserved, s) {
		return s
	}
	return quote(s)
}

// list writes texts on one line, or one to a line where that would be long.
func list(indent string, texts []string) string {
	quoted := make([]string, len(texts))
	n := len(indent)
	for i, t := range texts {
		quoted[i] = quote(t)
		n += len(quoted[i]) + 2
	}
	if n <= 90 || len(texts) < 2 {
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return "[\n" + indent + "\t" + strings.Join(quoted, ",\n"+indent+"\t") + ",\n" + indent + "]"
}

// files writes the draft. What was not carried over is told at the end of the file
// that it would be in.
func (d *draft) files(notCarried map[string][]string) ([]File, error) {
	parts := map[string]func(*writer){
		fileNetwork: d.network, fileGroups: d.writeGroups, fileTags: d.writeTags, fileHosts: d.writeHosts, fileServices: d.writeServices,
		filePostures: d.writePostures, fileRoutes: d.writeRoutes, fileRules: d.writeRules, fileTests: d.writeTests,
	}
	var out []File
	for _, name := range fileOrder {
		w := &writer{}
		parts[name](w)
		if w.Len() == 0 && len(notCarried[name]) == 0 {
			continue
		}
		body := bytes.TrimLeft(w.Bytes(), "\n")
		w = &writer{}
		if name == fileNetwork {
			w.comments("", d.header)
		}
		w.comments("", d.sections[name])
		w.f("package network\n")
		if len(body) > 0 {
			w.f("\n%s", body)
		}
		if left := notCarried[name]; len(left) > 0 {
			w.f("\n")
			w.comments("", left)
		}
		data, err := model.Format(name, w.Bytes())
		if err != nil {
			return nil, err
		}
		out = append(out, File{Name: name, Data: data})
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (d *draft) network(w *writer) {
	w.f("network: {\n\tname:   %s\n\tdomain: %s\n", quote(d.name), quote(d.domain))
	if d.literal {
		w.f("\n\t// The policy comes from elsewhere: an address means whichever node has it, and\n\t// routes may have been approved by hand.\n\tliteralAddresses: true\n")
	}
	w.f("}\n")
}

func (d *draft) writeGroups(w *writer) {
	for _, g := range d.groups {
		w.f("\n")
		w.comments("", g.comments)
		said := slices.ContainsFunc(g.members, func(m entryText) bool { return len(m.comments) > 0 })
		if !said {
			var texts []string
			for _, m := range g.members {
				texts = append(texts, m.text)
			}
			w.f("groups: %s: %s\n", label(g.name), list("", texts))
			continue
		}
		w.f("groups: %s: [\n", label(g.name))
		for _, m := range g.members {
			w.comments("\t", m.comments)
			w.f("\t%s,\n", quote(m.text))
		}
		w.f("]\n")
	}
}

func (d *draft) writeTags(w *writer) {
	for _, t := range d.tags {
		if len(t.comments) > 0 {
			w.f("\n")
			w.comments("", t.comments)
		}
		if len(t.owners) == 0 {
			w.f("tags: %s: {}\n", label(t.name))
		} else {
			w.f("tags: %s: owners: %s\n", label(t.name), list("", t.owners))
		}
	}
}

func (d *draft) writeHosts(w *writer) {
	for _, h := range d.hosts {
		if len(h.comments) > 0 {
			w.f("\n")
			w.comments("", h.comments)
		}
		text := h.prefix.String()
		if h.prefix.IsSingleIP() {
			text = h.prefix.Addr().String()
		}
		w.f("hosts: %s: %s\n", label(h.name), quote(text))
	}
}

func (d *draft) writeServices(w *writer) {
	for _, s := range d.services {
		w.f("\n")
		w.comments("", s.comments)
		w.f("services: %s: %s\n", label(s.name), list("", s.ports))
	}
}

func (d *draft) writePostures(w *writer) {
	for _, p := range d.postures {
		w.f("\n")
		w.comments("", p.comments)
		w.f("postures: %s: {\n", label(p.name))
		for _, a := range p.attrs {
			w.f("\t%s: %s\n", label(a.name), oneOrList("\t", a.values))
		}
		w.f("}\n")
	}
}

func oneOrList(indent string, values []string) string {
	if len(values) == 1 {
		return quote(values[0])
	}
	return list(indent, values)
}

func (d *draft) writeRoutes(w *writer) {
	for _, r := range d.routes {
		if len(r.comments) > 0 {
			w.f("\n")
			w.comments("", r.comments)
		}
		w.f("routes: %s: via: %s\n", quote(r.prefix.String()), list("", r.via))
	}
	if d.exit != nil {
		w.f("\n")
		w.comments("", d.exit.comments)
		w.f("exit: via: %s\n", list("", d.exit.via))
	}
}

func (d *draft) writeRules(w *writer) {
	for _, r := range d.rules {
		w.f("\n")
		w.comments("", r.comments)
		w.f("rules: %s: {\n", label(r.name))
		w.f("\tfrom: %s\n\tto: %s\n", list("\t", r.from), list("\t", r.to))
		if len(r.allow) > 0 {
			w.f("\tallow: %s\n", list("\t", r.allow))
		}
		if len(r.posture) > 0 {
			w.f("\tposture: %s\n", list("\t", r.posture))
		}
		if len(r.capabilities) > 0 {
			w.f("\tcapabilities: {\n")
			for _, c := range r.capabilities {
				w.f("\t\t%s: %s\n", quote(c.name), cueJSON(c.value))
			}
			w.f("\t}\n")
		}
		if r.why != "" {
			w.f("\twhy: %s\n", quote(r.why))
		}
		w.f("}\n")
	}
	for _, n := range d.notes {
		w.f("\n")
		w.comments("", n)
	}
}

// cueJSON is JSON as CUE, which takes it as it is but for the escapes of strings.
func cueJSON(raw []byte) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	cueTokens(d, &b)
	return b.String()
}

// cueTokens writes the next value of d.
func cueTokens(d *json.Decoder, b *strings.Builder) {
	t, err := d.Token()
	if err != nil {
		return
	}
	switch t := t.(type) {
	case json.Delim:
		b.WriteString(t.String())
		for first := true; d.More(); first = false {
			if !first {
				b.WriteString(", ")
			}
			if t == '{' {
				if name, err := d.Token(); err == nil {
					text, _ := name.(string)
					b.WriteString(quote(text) + ": ")
				}
			}
			cueTokens(d, b)
		}
		if end, err := d.Token(); err == nil {
			fmt.Fprint(b, end)
		}
	case string:
		b.WriteString(quote(t))
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, t)
	}
}

func (d *draft) writeTests(w *writer) {
	for _, t := range d.tests {
		w.f("\n")
		w.comments("", t.comments)
		w.f("tests: %s: {\n", quote(t.name))
		for _, part := range []struct {
			name string
			list []assertion
		}{{"allow", t.allow}, {"deny", t.deny}, {"only", t.only}} {
			if len(part.list) == 0 {
				continue
			}
			w.f("\t%s: [\n", part.name)
			for _, a := range part.list {
				w.f("\t\t{%s},\n", a)
			}
			w.f("\t]\n")
		}
		w.f("}\n")
	}
}

func (a assertion) String() string {
	side := func(one string, many []string) string {
		if one != "" {
			return quote(one)
		}
		return oneOrList("\t\t", many)
	}
	out := fmt.Sprintf("from: %s, to: %s", side(a.from, a.fromList), side(a.to, a.toList))
	if len(a.on) > 0 {
		out += ", on: " + list("\t\t", a.on)
	}
	if len(a.posture) > 0 {
		var attrs []string
		for _, p := range a.posture {
			attrs = append(attrs, label(p.name)+": "+quote(p.values[0]))
		}
		out += ", posture: {" + strings.Join(attrs, ", ") + "}"
	}
	if a.allowEmpty {
		out += ", allowEmpty: true"
	}
	return out
}
