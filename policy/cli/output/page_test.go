package output

import (
	"bytes"
	"fmt"
	"html"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/policy/reach"
)

func change(from, to, ports string, more ...func(*reach.Change)) reach.Change {
	c := reach.Change{From: strings.Split(from, ", "), To: strings.Split(to, ", "), Ports: strings.Split(ports, ", "), Rules: []string{"r"}, People: []string{}, Nodes: []string{}}
	for _, f := range more {
		f(&c)
	}
	return c
}

func by(people ...string) func(*reach.Change) { return func(c *reach.Change) { c.People = people } }

func because(place string, base bool) func(*reach.Change) {
	return func(c *reach.Change) { c.Causes = append(c.Causes, reach.Cause{Place: place, Base: base}) }
}

// pageReport is a change as one sees them: somebody gains, a group loses, much
// stays.
func pageReport() *Report {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	until := func(c *reach.Change) { c.Until = at.AddDate(0, 1, 9).Add(8 * time.Hour) }
	accounting := change("group:accounting", "tag:accounting", "tcp/443, icmp", by("alice@acme.example", "carol@acme.example"))
	it := change("group:it", "autogroup:tagged", "icmp", by("erin@acme.example"))
	ops := change("group:operations", "tag:database, tag:backup", "tcp/22, tcp/5432", by("frank@acme.example", "grace@acme.example", "heidi@acme.example"))
	build := change("tag:builder", "tag:registry", "tcp/443")
	wide := change("group:engineering", "tag:staging", "*", by("dave@acme.example", "ivan@acme.example"), because("rules.cue:31", true))
	narrow := change("group:engineering", "tag:staging", "tcp/443", by("dave@acme.example", "ivan@acme.example"))
	bob := change("bob@acme.example", "tag:accounting", "tcp/443, icmp", by("bob@acme.example"), until, because("groups.cue:4", false))
	web := change("group:contractors except mallory@acme.example", "tag:staging", "tcp/443", by("oscar@acme.example", "peggy@acme.example"), because("rules.cue:40", false))
	return &Report{
		Verb: "diff",
		Difference: &reach.Difference{
			At: at, Gained: []reach.Change{bob, web}, Lost: []reach.Change{wide},
			Admission: []reach.Admission{{Kind: "enrolment", Name: "ledger-fleet", Change: reach.Changed, Effect: reach.LetsIn, Text: `enrolment "ledger-fleet" takes nodes called ledger-* or vault-*`, Nodes: []string{}, Cause: reach.Cause{Place: "network.cue:12"}}},
		},
		Maps: &Maps{
			Before: []reach.Change{accounting, it, ops, build, wide},
			After:  []reach.Change{accounting, bob, it, ops, build, narrow, web},
		},
		Base: Origin{Label: "main@1c0ffee"}, Head: Origin{Label: "bob-in-accounting@5ca1ab1"},
	}
}

// written writes the page to a file that a browser opens.
func writtenPage(t *testing.T, r *Report) (file, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := Page(&b, r); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, b.String()
}

// TestPageIsWholeWithoutAScript: everything is in the text of the page itself,
// and the page refers to nothing outside.
func TestPageIsWholeWithoutAScript(t *testing.T) {
	_, text := writtenPage(t, pageReport())
	for _, want := range []string{
		"<h1>3 people gain access, 2 people lose access, and nodes are let in</h1>", "bob@acme.example", "group:contractors except mallory@acme.example",
		"until 2026-12-31 18:00 UTC", "was rules.cue:31", "All access before", "ledger-fleet", "main@1c0ffee",
	} {
		if !strings.Contains(html.UnescapeString(text), want) {
			t.Errorf("want %q on the page", want)
		}
	}
	if m := regexp.MustCompile(`(?i)(src|href)\s*=|url\((?:[^#])|@import|https?://|\sstyle=|\son[a-z]+=`).FindString(text); m != "" {
		t.Errorf("got %q, want a page that refers to nothing", m)
	}
}

func TestPageWantsADifference(t *testing.T) {
	if err := Page(&bytes.Buffer{}, &Report{Verb: "check", Check: &Check{}}); err == nil {
		t.Error("got a page about no difference")
	}
}

// TestPageInABrowser: what a person does with the page.
func TestPageInABrowser(t *testing.T) {
	b := browse(t)
	file, _ := writtenPage(t, pageReport())
	b.open(file)

	shown := func(selector string) (out []string) {
		t.Helper()
		b.value(fmt.Sprintf(`[...document.querySelectorAll(%q)].filter(e => e.checkVisibility() && !e.classList.contains("out")).map(e => (e.innerText ?? e.textContent).trim().replace(/\s+/g, " "))`, selector), &out)
		return out
	}
	expect := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	// The change comes first: what is gained, lost and there besides.
	if got, want := len(shown("#map-change .arrow")), 8; got != want {
		t.Errorf("arrows: got %d, want %d", got, want)
	}
	if got := shown("#map-change .arrow.lost"); len(got) != 1 || !strings.Contains(got[0], "group:engineering (2 people) * → tag:staging") {
		t.Errorf("lost: got %q", got)
	}
	if got := shown("#map-before .arrow"); len(got) > 0 {
		t.Errorf("got the map of before at once: %q", got)
	}

	// Before and after are one key away: the buttons are a group of three.
	b.value(`document.getElementById("view-change").focus(), 0`, new(int))
	b.press("ArrowRight", 39)
	if got, want := len(shown("#map-before .arrow")), 5; got != want {
		t.Errorf("arrows before: got %d, want %d", got, want)
	}
	b.press("ArrowRight", 39)
	if got, want := len(shown("#map-after .arrow")), 7; got != want {
		t.Errorf("arrows after: got %d, want %d", got, want)
	}
	b.value(`document.querySelector("label[for=view-change]").click(), 0`, new(int))

	// The filter finds people by name, also those that a group hides.
	typed := func(text string) {
		t.Helper()
		b.value(`document.getElementById("name").value = "", document.getElementById("name").focus(), 0`, new(int))
		b.call("Input.insertText", map[string]any{"text": text}, nil)
	}
	typed("BOB")
	expect("rows of bob", shown("section.table > table > tbody > tr"), []string{"+ bob@acme.example tag:accounting tcp/443, icmp until 2026-12-31 18:00 UTC groups.cue:4"})
	if got := shown("#map-change .end"); len(got) != 2 {
		t.Errorf("ends of bob: got %q, want two", got)
	}
	expect("found", shown("#found"), []string{"1 of 4 changes"})
	typed("peggy staging")
	if got := shown("main > section.table tbody tr"); len(got) != 1 || !strings.Contains(got[0], "group:contractors except mallory@acme.example (2 people)") {
		t.Errorf("rows of peggy: got %q", got)
	}
	typed("nobody-of-that-name")
	expect("rows of nobody", shown("tbody tr"), []string{})
	expect("found", shown("#found"), []string{"0 of 4 changes"})
	b.press("Escape", 27)
	expect("after Escape", shown("#found"), []string{""})
	if got := len(shown("main > section.table tbody tr")); got != 4 {
		t.Errorf("rows after Escape: got %d, want 4", got)
	}

	// A name on the map is a button for the filter, by keyboard, too.
	b.value(`document.querySelector('#map-change .end[data-name="tag:staging"]').focus(), 0`, new(int))
	b.press("Enter", 13)
	if got := len(shown("main > section.table tbody tr")); got != 2 {
		t.Errorf("rows of tag:staging: got %d, want 2", got)
	}
	b.press("Escape", 27)

	// What a screen reader is told: tables with captions, no picture without words.
	var tree struct {
		Nodes []struct {
			Ignored bool
			Role    struct{ Value string }
			Name    struct{ Value any }
		}
	}
	b.call("Accessibility.getFullAXTree", nil, &tree)
	names := map[string][]string{}
	for _, n := range tree.Nodes {
		if !n.Ignored {
			names[n.Role.Value] = append(names[n.Role.Value], fmt.Sprint(n.Name.Value))
		}
	}
	for role, want := range map[string]string{"heading": "3 people gain access", "table": "Access gained", "searchbox": "Filter by name", "radio": "Change", "columnheader": "because of", "button": "Show only bob@acme.example"} {
		if !slices.ContainsFunc(names[role], func(n string) bool { return strings.HasPrefix(n, want) }) {
			t.Errorf("%s: got %q, want %q among them", role, names[role], want)
		}
	}

	// It reads in light and in dark: text stands out from its ground by the ratio
	// that WCAG asks for.
	b.value(`document.activeElement.blur(), 0`, new(int))
	for _, scheme := range []string{"light", "dark"} {
		shot := b.look(scheme)
		if _, err := png.Decode(bytes.NewReader(shot)); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
		if dir := os.Getenv("PICTURES"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "diff-"+scheme+".png"), shot, 0o644); err != nil {
				t.Error(err)
			}
		}
		var poor []string
		b.value(contrastJS, &poor)
		if len(poor) > 0 {
			t.Errorf("%s: too little contrast: %q", scheme, poor)
		}
	}

	// On paper there are no controls.
	b.call("Emulation.setEmulatedMedia", map[string]any{"media": "print"}, nil)
	expect("controls in print", shown(".bar"), []string{})
	var pdf struct{ Data string }
	b.call("Page.printToPDF", nil, &pdf)
	if !strings.HasPrefix(pdf.Data, "JVBERi0") { // %PDF-
		t.Errorf("print: got %.20q, want a PDF", pdf.Data)
	}

	if got := b.complaints(file); len(got) > 0 {
		t.Errorf("the page complains: %q", got)
	}
}

// contrastJS lists elements with text whose contrast to what is behind them is
// less than 4.5.
const contrastJS = `(() => {
	const parse = c => (c.match(/[0-9.]+/g) || []).map(Number);
	const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
	const ground = e => {
		if (e instanceof SVGElement) {
			const rect = e.parentElement.querySelector("rect");
			if (rect && e.tagName === "text") return parse(getComputedStyle(rect).fill);
		}
		for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; }
		return [255, 255, 255];
	};
	const out = [];
	for (const e of document.querySelectorAll("h1, p, li, label, td, th, caption, summary, figcaption, svg text, input, output")) {
		if (!e.textContent.trim() || !e.checkVisibility()) continue;
		const style = getComputedStyle(e), colour = parse(e instanceof SVGElement ? style.fill : style.color), behind = ground(e);
		const [a, b] = [light(colour), light(behind)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) out.push(e.tagName + "." + e.className + " " + e.textContent.trim().slice(0, 20) + " " + ratio.toFixed(2));
	}
	return out;
})()`

// TestPageShowsTextAsText: whatever somebody wrote, the browser runs nothing of
// it, loads nothing, and shows it.
func TestPageShowsTextAsText(t *testing.T) {
	b := browse(t)
	texts := append(slices.Clone(hostile[:len(hostile)-1]), `<img src=x onerror="window.EVIL=1">`, `"><script>window.EVIL=1</script>`, `' onmouseover='window.EVIL=1`, `</style><script>window.EVIL=1</script>`, `</title></svg><b id="EVIL">`, `{{.JS}}`)
	for _, text := range texts {
		r := said(text)
		r.Maps = &Maps{Before: r.Difference.Lost, After: r.Difference.Gained}
		file, _ := writtenPage(t, r)
		b.open(file)
		var ran bool
		b.value(`"EVIL" in window && window.EVIL === 1 || document.querySelectorAll("script").length !== 1 || document.querySelectorAll("style").length !== 1 || document.querySelectorAll("img, b, iframe, a").length > 0`, &ran)
		if ran {
			t.Errorf("%q: got more than text", text)
		}
		var cell string
		b.value(`document.querySelector("tbody td:nth-child(4)").textContent`, &cell)
		if want := visible(text); cell != want {
			t.Errorf("got %q, want %q", cell, want)
		}
		if got := b.complaints(file); len(got) > 0 {
			t.Errorf("%q: the page complains: %q", text, got)
		}
	}
}

// TestPageOfManyChanges: a page stays one that a browser shows, and says what it
// leaves out.
func TestPageOfManyChanges(t *testing.T) {
	r := pageReport()
	for i := range 5000 {
		r.Difference.Gained = append(r.Difference.Gained, change(fmt.Sprintf("group:g%d", i%40), fmt.Sprintf("tag:t%d", i), "tcp/80"))
	}
	_, text := writtenPage(t, r)
	if len(text) > 4<<20 {
		t.Errorf("got %d bytes, want at most 4 MiB", len(text))
	}
	for _, want := range []string{"and 3002 more</p>", "more, which only the tables show"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q on the page", want)
		}
	}
}

// TestDrawingKeepsBoxesApart: no two boxes of a column overlap, and all are on
// the drawing.
func TestDrawingKeepsBoxesApart(t *testing.T) {
	for n := range 60 {
		var list []reach.Change
		for i := range n {
			list = append(list, change(fmt.Sprint("s", i*7%5), fmt.Sprint("t", i*3%(n/2+1)), fmt.Sprint("tcp/", i+1)))
		}
		d := draw(mapArrows(list, "kept", "="))
		for _, column := range [][]box{d.Sources, d.Targets} {
			last := -rowHeight / 2
			for _, b := range column {
				if b.Y-last < rowHeight || b.Y+rowHeight/2 > d.Height {
					t.Fatalf("%d arrows: box %q at %d, below %d, of %d", n, b.Label, b.Y, last, d.Height)
				}
				last = b.Y
			}
		}
	}
}
