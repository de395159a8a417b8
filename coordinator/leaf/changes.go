package leaf

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
)

// MaxChanges is the largest change list in bytes: every leaf of a revision of
// 80,000 leaves replaced. A larger change is published without a list, and
// agents ask for proofs.
const MaxChanges = 16 << 20

// A Change is one record added, changed or removed. A zero hash means no record.
type Change struct {
	Name     key.Hash // H(name)
	Old, New key.Hash // H(leaf)
}

// A ChangeList is every change from one revision to the next.
type ChangeList struct {
	Network key.NetworkID
	Base    key.Hash // of the previous manifest's text; zero for the first revision
	Changes []Change // sorted by Name
}

// Diff lists what changed from old to new; a nil old is an empty tree.
func Diff(old, new *Tree) []Change {
	var a []Record
	if old != nil {
		a = old.records
	}
	b := new.records
	var out []Change
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && compareNames(a[0].Name, b[0].Name) < 0:
			out = append(out, Change{Name: a[0].Name, Old: a[0].Leaf})
			a = a[1:]
		case len(a) == 0 || compareNames(a[0].Name, b[0].Name) > 0:
			out = append(out, Change{Name: b[0].Name, New: b[0].Leaf})
			b = b[1:]
		default:
			if a[0].Leaf != b[0].Leaf {
				out = append(out, Change{a[0].Name, a[0].Leaf, b[0].Leaf})
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

const changesType = "writ/changes/v1"

// Encode is the text of the list.
func (c ChangeList) Encode() []byte {
	var b strings.Builder
	b.WriteString(changesType + "\nnetwork " + c.Network.String() + "\nbase ")
	if c.Base.IsZero() {
		b.WriteString("none\n")
	} else {
		b.WriteString(c.Base.String() + "\n")
	}
	for _, ch := range c.Changes {
		b.WriteString("change " + hex.EncodeToString(ch.Name[:]) + " " + dash(ch.Old) + " " + dash(ch.New) + "\n")
	}
	return []byte(b.String())
}

func dash(h key.Hash) string {
	if h.IsZero() {
		return "-"
	}
	return hex.EncodeToString(h[:])
}

// ParseChangeList reads what Encode writes.
func ParseChangeList(b []byte) (c ChangeList, err error) {
	fail := func(line int, why string) (ChangeList, error) {
		return ChangeList{}, fmt.Errorf("change list line %d: %s", line, why)
	}
	if len(b) > MaxChanges {
		return fail(0, fmt.Sprintf("%d bytes, at most %d", len(b), MaxChanges))
	}
	text, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return fail(0, "no newline at the end")
	}
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		switch n {
		case 1:
			if line != changesType {
				return fail(n, "not a change list")
			}
			continue
		case 2:
			v, ok := strings.CutPrefix(line, "network ")
			if !ok {
				return fail(n, "want the network")
			}
			if c.Network, err = key.ParseNetworkID(v); err != nil {
				return fail(n, err.Error())
			}
			continue
		case 3:
			v, ok := strings.CutPrefix(line, "base ")
			if ok && v == "none" {
				continue
			}
			if c.Base, err = key.ParseHash(v); !ok || err != nil || c.Base.IsZero() {
				return fail(n, "base: want a hash or none")
			}
			continue
		}
		f := strings.Split(line, " ")
		if len(f) != 4 || f[0] != "change" {
			return fail(n, "want: change NAME OLD NEW")
		}
		var ch Change
		for i, h := range []*key.Hash{&ch.Name, &ch.Old, &ch.New} {
			if *h, err = undash(f[1+i]); err != nil {
				return fail(n, err.Error())
			}
		}
		if f[1] == "-" || ch.Old == ch.New {
			return fail(n, "changes nothing")
		}
		if len(c.Changes) > 0 && compareNames(c.Changes[len(c.Changes)-1].Name, ch.Name) >= 0 {
			return fail(n, "out of order")
		}
		c.Changes = append(c.Changes, ch)
	}
	if n < 3 {
		return fail(n, "ends before the base")
	}
	return c, nil
}

func undash(s string) (h key.Hash, err error) {
	if s == "-" {
		return h, nil
	}
	if len(s) != 2*len(h) || strings.ToLower(s) != s {
		return h, errors.New("want 64 lower-case hexadecimal digits")
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil || h.IsZero() {
		return h, errors.New("want 64 lower-case hexadecimal digits")
	}
	return h, nil
}
