package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Place is where something is written in the policy repository.
type Place struct {
	File string `json:"file"`           // slash-separated, from the repository's root
	Line int    `json:"line,omitempty"` // from 1; zero means the file as a whole
	Col  int    `json:"col,omitempty"`  // from 1, in bytes
}

// String is "file:line:col", as far as these are known.
func (p Place) String() string {
	switch {
	case p.File == "":
		return "policy"
	case p.Line == 0:
		return p.File
	default:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
	}
}

// IsZero reports whether p is nowhere.
func (p Place) IsZero() bool { return p == Place{} }

// Compare orders places by file, line and column.
func (p Place) Compare(o Place) int {
	return cmp.Or(strings.Compare(p.File, o.File), cmp.Compare(p.Line, o.Line), cmp.Compare(p.Col, o.Col))
}

// A Problem is one thing wrong with a policy, told to its author.
type Problem struct {
	Place   Place   `json:"place"`
	Message string  `json:"message"`        // one line
	Also    []Place `json:"also,omitempty"` // the other places that contributed
	Hint    string  `json:"hint,omitempty"` // what to do about it; one line
}

// String is the problem as printed: the place and message, then the other
// places on a line each, then the hint.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", p.Place, p.Message)
	for _, a := range p.Also {
		fmt.Fprintf(&b, "\n    also %s", a)
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "\n    hint: %s", p.Hint)
	}
	return b.String()
}

func (p Problem) compare(o Problem) int {
	return cmp.Or(p.Place.Compare(o.Place), strings.Compare(p.Message, o.Message),
		slices.CompareFunc(p.Also, o.Also, Place.Compare), strings.Compare(p.Hint, o.Hint))
}

// Problems are all that is wrong with a policy, sorted by place, each once.
// They are an error when there is at least one.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Err is ps, sorted and without repetitions, as an error; nil when it is empty.
func (ps Problems) Err() error {
	if ps = ps.tidy(); len(ps) > 0 {
		return ps
	}
	return nil
}

// Add appends a problem at the place.
func (ps *Problems) Add(at Place, format string, args ...any) {
	*ps = append(*ps, Problem{Place: at, Message: fmt.Sprintf(format, args...)})
}

// tidy sorts by place and drops repetitions.
func (ps Problems) tidy() Problems {
	for i := range ps {
		slices.SortFunc(ps[i].Also, Place.Compare)
		ps[i].Also = slices.Compact(ps[i].Also)
	}
	slices.SortFunc(ps, Problem.compare)
	return slices.CompactFunc(ps, func(a, b Problem) bool { return a.compare(b) == 0 })
}
