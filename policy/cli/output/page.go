package output

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's three files
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/writmesh/writ/policy/reach"
)

const (
	// maxArrows bounds a drawing; beyond it nobody follows one. What changes
	// is drawn before what does not.
	maxArrows = 120
	// maxRows bounds a table of the page, so that a browser stays quick.
	maxRows = 2000
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// A page is what the template shows. Every text in it has been through visible;
// the template escapes it for where it stands.
type page struct {
	Policy   template.HTMLAttr // of what the browser may load: nothing, and run: the one script
	CSS      template.CSS
	JS       template.JS
	Title    string
	Verdict  string
	Compared string
	Counts   []pageCount
	Views    []pageView
	Tables   []pageTable
	Extra    []pageTable // all access, folded away
	Footer   string
}

type pageCount struct{ Class, Sign, Text string }

type pageView struct {
	ID, Name, Text string
	Checked        bool
	Drawing        drawing
}

type pageTable struct {
	Class, Name string
	Columns     []string
	Rows        []pageRow
	More        int
}

type pageRow struct {
	Words string // in lower case, that the filter looks in
	Sign  string
	Cells []string
}

// Page writes one page for people to look at a difference: a map of who reaches
// what, before and after and what is between, and the same as tables. It is one
// file that loads nothing, from anywhere: its content security policy allows its
// own style and script by their hashes and nothing else, and without the script
// all but the filter works.
func Page(w io.Writer, r *Report) error {
	if r.Difference == nil || r.Maps == nil {
		return errors.New("write page: the page shows a difference; want policy diff, or a base")
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, newPage(r)); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return write(w, "page", b.String())
}

func newPage(r *Report) page {
	d := r.Difference
	v := divide(d)
	effect := effectOf(d)
	p := page{
		Policy: template.HTMLAttr(fmt.Sprintf(`content="default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; base-uri 'none'; form-action 'none'"`, digest(pageCSS), digest(pageJS))),
		CSS:    template.CSS(pageCSS), JS: template.JS(pageJS),
		Title:   "Access change",
		Verdict: strings.ToUpper(effect[:1]) + effect[1:],
		Footer:  judged(d),
	}
	if r.Base.Label != "" && r.Head.Label != "" {
		p.Compared = visible(r.Head.short()) + " compared with " + visible(r.Base.short())
		p.Title = "Access change: " + visible(r.Head.short())
	}
	for _, c := range []struct {
		class, sign, verb, none string
		changes                 []reach.Change
	}{
		{"gained", "+", "gained", none("nothing gained", v.wider), v.gained},
		{"lost", "−", "lost", none("nothing lost", v.narrower), v.lost},
		{"gained", "+", "gained under some conditions", "", v.wider},
		{"lost", "−", "lost under some conditions", "", v.narrower},
		{"moved", "~", "kept with another end", "", v.ends},
	} {
		switch {
		case len(c.changes) > 0:
			text := c.verb
			if n := people(c.changes); n > 0 {
				text += " by " + plural(n, "person", "people")
			}
			if d.Inventory {
				text += ", to " + plural(nodes(c.changes), "node", "nodes")
			}
			p.Counts = append(p.Counts, pageCount{c.class, c.sign, text})
		case c.none != "":
			p.Counts = append(p.Counts, pageCount{"nothing", c.sign, c.none})
		}
	}
	p.Views = []pageView{
		{ID: "change", Name: "Change", Text: "What the change gives and takes; in grey all access after it, whether it was there before or not", Checked: true, Drawing: draw(changeArrows(d, r.Maps))},
		{ID: "before", Name: "Before", Text: "All access before the change", Drawing: draw(mapArrows(r.Maps.Before, "kept", "="))},
		{ID: "after", Name: "After", Text: "All access after the change", Drawing: draw(mapArrows(r.Maps.After, "kept", "="))},
	}
	p.table("gained", "Access gained", "+", v.gained, true, d.Inventory)
	p.table("lost", "Access lost", "−", v.lost, false, d.Inventory)
	p.table("moved", "Access kept, under other conditions", "~", v.other(), true, d.Inventory)
	p.table("moved", "Access kept, with another end", "~", v.ends, true, d.Inventory)
	p.admission(d)
	p.Extra = []pageTable{
		changeTable("kept", "All access before", "", r.Maps.Before, true, d.Inventory),
		changeTable("kept", "All access after", "", r.Maps.After, true, d.Inventory),
	}
	return p
}

// none is said where nothing changes so, not even under some conditions.
func none(text string, partly []reach.Change) string {
	if len(partly) > 0 {
		return ""
	}
	return text
}

// short is what people call a side.
func (o Origin) short() string {
	if o.Commit != "" && strings.Contains(o.Label, o.Commit) {
		return o.Commit[:12]
	}
	return o.Label
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (p *page) table(class, name, sign string, changes []reach.Change, gained, counted bool) {
	if len(changes) > 0 {
		p.Tables = append(p.Tables, changeTable(class, name, sign, changes, gained, counted))
	}
}

func changeTable(class, name, sign string, changes []reach.Change, gained, counted bool) pageTable {
	t := pageTable{Class: class, Name: name, Columns: []string{"who", "reaches", "on", "when", "because of"}}
	for i, c := range changes {
		if i == maxRows {
			t.More = len(changes) - i
			break
		}
		s := tell(c, gained, counted)
		when := s.when
		if when == "" {
			when = "always"
		}
		because := strings.Join(s.causes, ", ")
		if len(c.Causes) == 0 {
			because = "rule " + strings.Join(c.Rules, ", ")
		}
		cells := []string{who(c), what(c, counted), strings.Join(doors(c), ", "), when, because}
		t.Rows = append(t.Rows, newRow(sign, cells, c.People, c.Nodes))
	}
	return t
}

func (p *page) admission(d *reach.Difference) {
	if len(d.Admission) == 0 {
		return
	}
	t := pageTable{Class: "admission", Name: "Who is let in, and whom the network trusts", Columns: []string{"what changes", "because of"}}
	for i, a := range d.Admission {
		if i == maxRows {
			t.More = len(d.Admission) - i
			break
		}
		sign := map[string]string{reach.LetsIn: "+", reach.PutsOut: "−"}[a.Effect]
		if sign == "" {
			sign = "~"
		}
		place := a.Cause.Place
		if place != "" && a.Cause.Base {
			place = "was " + place
		}
		t.Rows = append(t.Rows, newRow(sign, []string{a.Text, place}, a.Nodes))
	}
	p.Tables = append(p.Tables, t)
}

// newRow is a row, which the filter finds by what it shows and by further names.
func newRow(sign string, cells []string, names ...[]string) pageRow {
	row := pageRow{Sign: sign}
	for _, c := range cells {
		row.Cells = append(row.Cells, visible(c))
	}
	words := strings.Join(row.Cells, " ")
	for _, list := range names {
		words += " " + visible(strings.Join(list[:min(len(list), 200)], " "))
	}
	row.Words = strings.ToLower(words)
	return row
}

// judged says how a difference was arrived at.
func judged(d *reach.Difference) string {
	text := "Judged at " + reach.Moment(d.At)
	if d.Inventory {
		return text + ", with an inventory of nodes."
	}
	return text + ", over every node that might exist."
}
