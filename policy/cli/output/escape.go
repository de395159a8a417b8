package output

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/writmesh/writ/cue/model"
)

// code shows a text of the policy's in Markdown, wherever in a line it stands,
// also in a table: as it is, and as nothing else. In code neither GitHub nor
// GitLab looks for people to call, issues to mark, or addresses to link to.
//
// A code span holds all but what would end it or a table's cell. What holds such
// is written as HTML, every mark in it as a character reference, which never
// begins or ends anything.
func code(s string) string {
	s = visible(s)
	if s == "" {
		return ""
	}
	if !strings.ContainsAny(s, "`|\\") && strings.TrimSpace(s) == s {
		return "`" + s + "`"
	}
	return "<code>" + references(s) + "</code>"
}

// references writes everything but ASCII letters, digits, blanks and what is not
// ASCII as character references.
func references(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= utf8.RuneSelf || r == ' ' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, "&#%d;", r)
	}
	return b.String()
}

// codes are several texts, each shown for itself.
func codes(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = code(s)
	}
	return strings.Join(out, ", ")
}

// cut shortens a text to a number of characters: what somebody wrote is not to
// crowd out what others wrote.
func cut(s string, limit int) string {
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}

// linked is a place, and a link to it where its side has one.
func (o Origin) linked(p model.Place) string {
	p.Col = 0
	text := strings.TrimSuffix(p.String(), ":0")
	shown := code(cut(text, maxCell))
	if o.Link == "" || p.File == "" || len(p.File) > maxCell {
		return shown
	}
	address := o.Link + "/" + pathURI(o.File(p.File))
	if p.Line > 0 {
		address += fmt.Sprintf("#L%d", p.Line)
	}
	return link(shown, address)
}

// link is a Markdown link. Brackets and blanks in the address would end it.
func link(text, address string) string {
	return "[" + text + "](" + strings.NewReplacer("(", "%28", ")", "%29", "<", "%3C", ">", "%3E", " ", "%20", "\\", "%5C", "|", "%7C").Replace(visible(address)) + ")"
}
