package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/policy/reach"
)

const (
	// maxEdges bounds a picture: more arrows than these are not followed by
	// eye. Mermaid itself draws up to 280.
	maxEdges = 24
	// maxLabel is how many characters of a name a picture shows.
	maxLabel = 60
)

// Mermaid draws a difference, with who on the left and what on the right: a
// green arrow for what is gained, a red, broken one for what is lost, an amber,
// dotted one for what is kept with another end. GitHub and GitLab show it as a
// picture. It is empty where no access changes, and how many changes it leaves
// out is the second result.
func Mermaid(d *reach.Difference) (text string, more int) {
	type edge struct {
		from, to, label string
		sort            string
	}
	var edges []edge
	seen := map[edge]bool{}
	add := func(changes []reach.Change, gained bool) {
		for _, c := range changes {
			s := tell(c, gained, false)
			label := s.mark.text + " " + cut(strings.Join(doors(c), ", "), maxLabel)
			e := edge{cut(who(c), maxLabel), cut(what(c, false), maxLabel), label, s.id}
			if !seen[e] {
				seen[e] = true
				edges = append(edges, e)
			}
		}
	}
	add(d.Gained, true)
	add(d.Lost, false)
	if len(edges) == 0 {
		return "", 0
	}
	if more = len(edges) - maxEdges; more > 0 {
		edges = edges[:maxEdges]
	}
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	var sources, targets []string
	node := func(list *[]string, letter, name string) string {
		at := slices.Index(*list, name)
		if at < 0 {
			at = len(*list)
			*list = append(*list, name)
			fmt.Fprintf(&b, "  %s%d[\"%s\"]\n", letter, at, mermaidText(name))
		}
		return fmt.Sprintf("%s%d", letter, at)
	}
	arrows := map[string]string{"access/gained": "==>", "access/lost": "-.->", "access/kept": "-->"}
	colours := map[string]string{"access/gained": "#1a7f37", "access/lost": "#cf222e", "access/kept": "#9a6700"}
	var lines []string
	styled := map[string][]string{}
	for i, e := range edges {
		from := node(&sources, "a", e.from)
		to := node(&targets, "b", e.to)
		lines = append(lines, fmt.Sprintf("  %s %s|\"%s\"| %s\n", from, arrows[e.sort], mermaidText(e.label), to))
		styled[e.sort] = append(styled[e.sort], fmt.Sprint(i))
	}
	b.WriteString(strings.Join(lines, ""))
	for _, sort := range []string{"access/gained", "access/lost", "access/kept"} {
		if list := styled[sort]; len(list) > 0 {
			fmt.Fprintf(&b, "  linkStyle %s stroke:%s\n", strings.Join(list, ","), colours[sort])
		}
	}
	return b.String(), max(0, more)
}

// mermaidText escapes a label in quotes. Mermaid reads Markdown, HTML and its own
// marks in it; what it knows as "#NN;" is a character and nothing else.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range visible(s) {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune(" ,:@.-/+~", r), r > 0x7f:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}
