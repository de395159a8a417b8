package model

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/errors"
)

// maxAlso is how many other places a problem lists.
const maxAlso = 4

// disjunction is CUE's headline above the errors of each alternative, which
// follow it.
var disjunction = regexp.MustCompile(`^\d+ errors in empty disjunction`)

// told turns CUE's errors into problems with places of the policy. At says
// where a path is written and whether that was told already; it may be nil.
func (s *syntax) told(err error, at func(path []string) (Place, bool)) Problems {
	var ps Problems
	seen := map[string]bool{}
	for _, e := range errors.Errors(err) {
		format, args := e.Msg()
		text := fmt.Sprintf(format, args...)
		if disjunction.MatchString(text) {
			continue
		}
		path := plainPath(e.Path())
		fallback, known := s.labelled(path), false
		if at != nil {
			fallback, known = at(path)
		}
		// One problem for a value: the alternatives of a disjunction each say why
		// not, and the first is about the value, the others about its inside.
		if key := strings.Join(path, "\x00"); known || len(path) > 0 && seen[key] {
			continue
		} else {
			seen[key] = true
		}
		p := Problem{Message: humanMessage(path, text, at == nil), Place: fallback}
		places := s.positions(e)
		if len(places) > 0 {
			p.Place, p.Also = places[0], append(p.Also, places[1:]...)
		}
		ps = append(ps, p)
	}
	if len(ps) == 0 && at == nil && err != nil {
		ps.Add(Place{}, "%s", clean(err.Error()))
	}
	return ps
}

// positions are the places of an error within the policy, its own first.
func (s *syntax) positions(e errors.Error) []Place {
	var places []Place
	for _, pos := range append(errors.Positions(e), e.InputPositions()...) {
		if p := placeOf(pos); s.names[p.File] && !slices.Contains(places, p) {
			places = append(places, p)
		}
	}
	return places[:min(len(places), maxAlso+1)]
}

// plainPath is a path of CUE's errors without the quotes around labels.
func plainPath(path []string) []string {
	out := make([]string, len(path))
	for i, label := range path {
		out[i] = label
		if s, err := strconv.Unquote(label); err == nil {
			out[i] = s
		}
	}
	return out
}

// labelled is the place of the longest beginning of path that the syntax shows.
func (s *syntax) labelled(path []string) Place {
	for n := len(path); n > 0; n-- {
		if at := s.labels[strings.Join(path[:n], "\x00")]; len(at) > 0 {
			return at[0]
		}
	}
	if len(path) > 0 {
		return s.hidden[path[0]]
	}
	return Place{}
}

// humanMessage says what CUE says in the policy's words. Own is whether the
// schema has no part in it.
func humanMessage(path []string, text string, own bool) string {
	text = clean(text)
	switch {
	case text == "field not allowed" && len(path) > 0 && own:
		return fmt.Sprintf("field %s%s is not allowed by a definition of this policy", quoteName(path[len(path)-1]), inPath(path[:len(path)-1]))
	case text == "field not allowed" && len(path) > 0:
		return fmt.Sprintf("unknown field %s%s", quoteName(path[len(path)-1]), inPath(path[:len(path)-1]))
	case !own && strings.Contains(text, "(mismatched types "):
		if s := policyShape().at(path); s != nil {
			return pathText(path) + ": want " + s.want()
		}
		return pathText(path) + ": " + text
	case strings.HasPrefix(text, "incomplete value "):
		return fmt.Sprintf("%s: no definite value (%s)", pathText(path), strings.TrimPrefix(text, "incomplete value "))
	case len(path) == 0:
		return text
	default:
		return pathText(path) + ": " + text
	}
}

// clean makes one short line of ASCII of a text that may quote the policy.
func clean(s string) string {
	const most = 300
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case r >= 0x80 || !plainRune(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	s = strings.Join(strings.Fields(b.String()), " ")
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
