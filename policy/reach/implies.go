package reach

import (
	"slices"
	"strconv"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// implies reports whether whatever meets a meets b: each condition of b follows
// from one of a. A nil posture is met by everything.
func implies(a, b acl.Posture) bool {
	for _, want := range b {
		if !slices.ContainsFunc(a, func(have acl.Condition) bool { return follows(have, want) }) {
			return false
		}
	}
	return true
}

// follows reports whether a value that meets have meets want.
func follows(have, want acl.Condition) bool {
	if have.Attr != want.Attr {
		return false
	}
	if want.Op == acl.OpSet {
		return true // whatever compares a value, needs one
	}
	if have.Op == acl.OpIn {
		for _, v := range have.Values {
			if !(acl.Posture{want}).Met(map[string]string{want.Attr: v}) {
				return false
			}
		}
		return true
	}
	if have.Op == acl.OpNotIn {
		return want.Op == acl.OpNotIn && !slices.ContainsFunc(want.Values, func(v string) bool { return !slices.Contains(have.Values, v) })
	}
	h, isVersion := versionOf(have)
	if !isVersion {
		return false
	}
	if want.Op == acl.OpNotIn { // a value that is out of have's reach is not one of those
		return !slices.ContainsFunc(want.Values, func(v string) bool { return (acl.Posture{have}).Met(map[string]string{have.Attr: v}) })
	}
	w, isVersion := versionOf(want)
	if !isVersion {
		return false
	}
	order := slices.Compare(h, w)
	switch want.Op {
	case acl.OpLess:
		return have.Op == acl.OpLess && order <= 0 || have.Op == acl.OpMost && order < 0
	case acl.OpMost:
		return (have.Op == acl.OpLess || have.Op == acl.OpMost) && order <= 0
	case acl.OpMore:
		return have.Op == acl.OpMore && order >= 0 || have.Op == acl.OpLeast && order > 0
	case acl.OpLeast:
		return (have.Op == acl.OpMore || have.Op == acl.OpLeast) && order >= 0
	}
	return false
}

// versionOf is what a condition compares versions with.
func versionOf(c acl.Condition) (v []int, is bool) {
	switch c.Op {
	case acl.OpLess, acl.OpMost, acl.OpMore, acl.OpLeast:
		if len(c.Values) != 1 {
			return nil, false
		}
		for part := range strings.SplitSeq(c.Values[0], ".") {
			n, err := strconv.Atoi(part)
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
	return nil, false
}
