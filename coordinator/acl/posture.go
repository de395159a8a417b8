package acl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Posture is what a source node must report of itself: all of the conditions.
// It is self-reported, so that it keeps out honest nodes only. A node that does
// not report an attribute meets no condition on it.
type Posture []Condition

// A Condition compares one attribute.
type Condition struct {
	Attr   string   `json:"attr"`             // "os", "osVersion", "agentVersion", "custom:NAME"
	Op     Op       `json:"op"`               //
	Values []string `json:"values,omitempty"` // several of OpIn and OpNotIn, none of OpSet, one otherwise
}

// An Op is how an attribute is compared with the values.
type Op string

// The comparisons. Versions are numbers with dots between them, compared one by
// one, a missing one being zero; a text that is none is neither more nor less than
// any.
const (
	OpIn    Op = "in"     // is one of the values
	OpNotIn Op = "not in" // is reported, and none of the values
	OpSet   Op = "set"    // is reported
	OpLess  Op = "<"      // as versions
	OpMost  Op = "<="
	OpMore  Op = ">"
	OpLeast Op = ">="
)

// MaxAttr is the longest name or value of an attribute, in bytes.
const MaxAttr = 128

// CheckAttr checks an attribute's name: "os", "osVersion", "agentVersion", or
// "custom:NAME" with letters, digits, '-', '_' and '.'.
func CheckAttr(name string) error {
	switch name {
	case "os", "osVersion", "agentVersion":
		return nil
	}
	rest, ok := strings.CutPrefix(name, "custom:")
	if !ok {
		return fmt.Errorf("unknown attribute %q: want os, osVersion, agentVersion or custom:NAME", name)
	}
	if rest == "" || len(name) > MaxAttr {
		return fmt.Errorf("attribute %q: want custom:NAME of at most %d bytes", name, MaxAttr)
	}
	for _, r := range rest {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r)) {
			return fmt.Errorf("attribute %q: %s is not allowed; use letters, digits, '-', '_' and '.'", name, describe(r))
		}
	}
	return nil
}

// CheckAttrValue checks a value: printable ASCII, not empty, no spaces around it.
func CheckAttrValue(v string) error {
	if v == "" || len(v) > MaxAttr {
		return fmt.Errorf("attribute value of %d bytes: want 1 to %d", len(v), MaxAttr)
	}
	if strings.Trim(v, " ") != v {
		return fmt.Errorf("attribute value %q: spaces around it", v)
	}
	for _, r := range v {
		if r < ' ' || r > '~' {
			return fmt.Errorf("attribute value %q: %s is not allowed", v, describe(r))
		}
	}
	return nil
}

// Check says what is wrong with c.
func (c Condition) Check() error {
	if err := CheckAttr(c.Attr); err != nil {
		return err
	}
	want := 1
	switch c.Op {
	case OpIn, OpNotIn:
		want = max(1, len(c.Values))
	case OpSet:
		want = 0
	case OpLess, OpMost, OpMore, OpLeast:
		if len(c.Values) == 1 {
			if _, ok := version(c.Values[0]); !ok {
				return fmt.Errorf("%s %s %q: want a version, such as 14.2", c.Attr, c.Op, c.Values[0])
			}
		}
	default:
		return fmt.Errorf("%s: unknown comparison %q", c.Attr, c.Op)
	}
	if len(c.Values) != want {
		return fmt.Errorf("%s %s: %d values, want %d", c.Attr, c.Op, len(c.Values), want)
	}
	for _, v := range c.Values {
		if err := CheckAttrValue(v); err != nil {
			return err
		}
	}
	return nil
}

// Postures are those of a grant, of which one must be met. In JSON they are absent
// or at least one, and each has conditions and passes Check.
type Postures []Posture

// UnmarshalJSON reads a list of postures that is not empty.
func (ps *Postures) UnmarshalJSON(b []byte) error {
	type condition Condition
	var raw [][]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	var out Postures
	for _, list := range raw {
		var p Posture
		for _, r := range list {
			var c condition
			d := json.NewDecoder(bytes.NewReader(r))
			d.DisallowUnknownFields()
			if err := d.Decode(&c); err != nil {
				return err
			}
			p = append(p, Condition(c))
		}
		if err := p.Check(); err != nil {
			return err
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return errors.New("posture: an empty list")
	}
	*ps = out
	return nil
}

// Check says what is wrong with p. A posture without conditions would be met by
// everybody, and is an error.
func (p Posture) Check() error {
	if len(p) == 0 {
		return errors.New("a posture without conditions")
	}
	for _, c := range p {
		if err := c.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Met reports whether what a node reports meets all conditions. Of a posture that
// does not pass Check, nothing does.
func (p Posture) Met(reported map[string]string) bool {
	return p.Check() == nil && !slices.ContainsFunc(p, func(c Condition) bool { return !c.met(reported) })
}

func (c Condition) met(reported map[string]string) bool {
	v, ok := reported[c.Attr]
	if !ok {
		return false
	}
	switch c.Op {
	case OpIn:
		return slices.Contains(c.Values, v)
	case OpNotIn:
		return !slices.Contains(c.Values, v)
	case OpSet:
		return true
	}
	have, ok := version(v)
	want, ok2 := version(c.Values[0])
	if !ok || !ok2 {
		return false
	}
	order := slices.Compare(have, want)
	switch c.Op {
	case OpLess:
		return order < 0
	case OpMost:
		return order <= 0
	case OpMore:
		return order > 0
	case OpLeast:
		return order >= 0
	default:
		return false
	}
}

func (c Condition) String() string {
	if c.Op == OpSet {
		return c.Attr + " is reported"
	}
	return fmt.Sprintf("%s %s %s", c.Attr, c.Op, strings.Join(c.Values, ", "))
}

func (p Posture) String() string {
	var out []string
	for _, c := range p {
		out = append(out, c.String())
	}
	return strings.Join(out, " and ")
}

// version reads numbers with dots between them; zeros at the end say nothing.
func version(s string) (v []int, ok bool) {
	for part := range strings.SplitSeq(s, ".") {
		for len(part) > 1 && part[0] == '0' {
			part = part[1:] // 22.04
		}
		n, err := number(part, 1<<31-1)
		if err != nil {
			return nil, false
		}
		v = append(v, n)
	}
	for len(v) > 0 && v[len(v)-1] == 0 {
		v = v[:len(v)-1]
	}
	return v, true
}
