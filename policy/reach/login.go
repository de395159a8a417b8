package reach

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/leaf"
)

// identity is the entry for a provider with which people log in. Who logged in by
// it is out where it is another provider, or where it may no longer log them in.
func (a *admitting) identity(name string, was, is *leaf.Identity) {
	people := func(i *leaf.Identity) string { return strings.Join(i.Members, ", ") }
	by := func(n Admitted) bool { return n.Basis == "identity "+name }
	if was == nil {
		a.add("identity", name, Added, LetsIn, fmt.Sprintf("whoever %s knows as %s may log in", is.Issuer, people(is)), nil)
		return
	}
	if is == nil {
		a.loggedOut(name, Removed, "is gone", a.inv.where(by))
		return
	}
	if was.Issuer != is.Issuer || was.ClientID != is.ClientID {
		a.loggedOut(name, Changed, "is another provider, "+is.Issuer, a.inv.where(by))
		a.add("identity", name, Changed, LetsIn, fmt.Sprintf("whoever %s knows as %s may log in", is.Issuer, people(is)), nil)
		return
	}
	more := less(is.Members, was.Members)
	fewer := less(was.Members, is.Members)
	if len(fewer) > 0 {
		out := a.inv.where(func(n Admitted) bool {
			return by(n) && anyPattern(was.Members, n.User) && !anyPattern(is.Members, n.User)
		})
		a.loggedOut(name, Changed, "is no longer for "+strings.Join(fewer, ", "), out)
	}
	if len(more) > 0 {
		a.add("identity", name, Changed, LetsIn, fmt.Sprintf("whoever %s knows as %s may log in", is.Issuer, strings.Join(more, ", ")), nil)
	}
}

// loggedOut is the entry for those who logged in by a provider and are out. Nobody
// knows who they are where the inventory does not say.
func (a *admitting) loggedOut(name, change, why string, nodes []string) {
	what := fmt.Sprintf("identity %q", name)
	switch {
	case len(nodes) == 1:
		a.add("identity", name, change, PutsOut, fmt.Sprintf("%s is out: %s %s", nodes[0], what, why), nodes)
	case len(nodes) > 1:
		a.add("identity", name, change, PutsOut, fmt.Sprintf("%s are out: %s %s", strings.Join(nodes, ", "), what, why), nodes)
	case a.inv.unsure():
		a.add("identity", name, change, PutsOut, fmt.Sprintf("whoever logged in by %s and may not now is out: it %s", what, why), nil)
	default:
		a.add("identity", name, change, PutsOut, fmt.Sprintf("nobody whom it is about may log in by %s any more: it %s", what, why), nil)
	}
}

// less are the entries of one list that the other does not have.
func less(list, than []string) (out []string) {
	for _, x := range list {
		if !slices.Contains(than, x) {
			out = append(out, x)
		}
	}
	return out
}

// anyPattern reports whether a text matches one of the patterns, in which '*'
// stands for any characters.
func anyPattern(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		parts := strings.Split(p, "*")
		rest, ok := strings.CutPrefix(text, parts[0])
		if !ok || len(parts) == 1 {
			return ok && rest == ""
		}
		for _, part := range parts[1 : len(parts)-1] {
			if _, rest, ok = strings.Cut(rest, part); !ok {
				return false
			}
		}
		return strings.HasSuffix(rest, parts[len(parts)-1])
	})
}

// session is the entry for how long a login lasts.
func (a *admitting) session(was, is int64) {
	lasts := func(s int64) string {
		if s == 0 {
			return "as long as whoever admits decides"
		}
		text := (time.Duration(s) * time.Second).String() // 12h0m0s
		if short, ok := strings.CutSuffix(text, "m0s"); ok {
			text = strings.TrimSuffix(short+"m", "h0m")
			if len(text) < len(short) {
				text += "h"
			}
		}
		return text
	}
	if was != is {
		a.add("session", "session", Changed, "", fmt.Sprintf("a login lasts %s; before, %s", lasts(is), lasts(was)), nil)
	}
}
