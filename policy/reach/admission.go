package reach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// An Admission is one change of who may be in the network, of whom its nodes
// trust, or of what judges the next change: all that lets nodes in or puts them
// out, or prepares it, without a rule that says another thing.
//
// A node is out for good when what it was admitted by is gone or gives it
// something else: its pin, or the pin's key, user, tags or address; its enrolment
// entry, or the entry's tags; or when it is revoked. Package sync/admit decides
// so; this is the same said beforehand. Another key or other names of an
// enrolment entry, or another end, change who may join, and put nobody out. People
// whom a provider logged in are out where it is gone or may not log them in any
// more.
type Admission struct {
	Kind   string   `json:"kind"`             // "pin", "enrolment", "identity", "session", "revoked", "admins", "route", "exit", "relay", "coordinator", "team", "guard", "test"
	Name   string   `json:"name"`             // of the entry; of a coordinator its address, of admins a selector, of a route its prefix, of guards a file, of a test its title
	Change string   `json:"change"`           // what happens to the entry: "added", "removed", "changed"
	Effect string   `json:"effect,omitempty"` // "in": others may be in; "out": some no longer are; empty: neither
	Text   string   `json:"text"`             // in people's words
	Nodes  []string `json:"nodes"`            // of the inventory, that this puts out, by name
	Cause  Cause    `json:"cause,omitzero"`   // filled in by whoever knows the places
}

// What an admission may say.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"

	LetsIn  = "in"
	PutsOut = "out"
)

// Out reports whether anybody is put out.
func (d *Difference) Out() bool { return d.admits(PutsOut) }

// In reports whether anybody is let in.
func (d *Difference) In() bool { return d.admits(LetsIn) }

func (d *Difference) admits(effect string) bool {
	return slices.ContainsFunc(d.Admission, func(a Admission) bool { return a.Effect == effect })
}

// SortAdmission brings entries into the order in which they are read: by kind and
// name, and whom a change puts out before whom it lets in.
func SortAdmission(list []Admission) {
	order := []string{"pin", "enrolment", "identity", "session", "revoked", "admins", "route", "exit", "relay", "coordinator", "team", "guard", "test"}
	slices.SortStableFunc(list, func(a, b Admission) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)),
			strings.Compare(a.Name, b.Name), strings.Compare(b.Effect, a.Effect))
	})
}

// admission compares what the leaves of two policies say about admission.
func admission(base, head *Compiled, inv *Inventory) []Admission {
	a := &admitting{inv: inv, out: []Admission{}}
	pairs(base.Pins, head.Pins, func(p leaf.Node) string { return p.Name }, a.pin)
	pairs(base.Enrolments, head.Enrolments, func(e leaf.Enrolment) string { return e.Name }, a.enrolment)
	pairs(base.Identity, head.Identity, func(i leaf.Identity) string { return i.Name }, a.identity)
	if base.Prefix4.IsValid() { // there was a network before
		a.session(base.Session, head.Session)
	}
	pairs(base.Admins, head.Admins, acl.Selector.String, a.admin)
	a.groupAdmins(base, head)
	pairs(base.Relays, head.Relays, func(r leaf.Relay) string { return r.Name }, func(name string, was, is *leaf.Relay) {
		a.service("relay", name, was != nil, is != nil, was != nil && is != nil && !was.Key.Equal(is.Key), was != nil && is != nil && was.Addr != is.Addr)
	})
	pairs(base.Coordinators, head.Coordinators, func(c leaf.Coordinator) string { return c.Addr }, func(addr string, was, is *leaf.Coordinator) {
		a.service("coordinator", addr, was != nil, is != nil, was != nil && is != nil && !was.Pin.Equal(is.Pin), false)
	})
	SortAdmission(a.out)
	return a.out
}

// Revocation is the entry for a node that is on the list of revoked nodes, or no
// longer. That a node is out is never taken back.
func Revocation(id key.NodeID, why string, added bool, inv *Inventory) Admission {
	a := Admission{Kind: "revoked", Name: id.String(), Change: Removed, Nodes: []string{},
		Text: fmt.Sprintf("node %s is no longer listed as revoked; where it was put out, it stays out", id.Short())}
	if !added {
		return a
	}
	a.Change, a.Effect = Added, PutsOut
	a.Nodes = inv.where(func(n Admitted) bool { return n.ID == id })
	who := "node " + id.Short()
	if len(a.Nodes) > 0 {
		who = strings.Join(a.Nodes, ", ") + " (" + id.Short() + ")"
	}
	a.Text = who + " is out: revoked"
	if why != "" {
		a.Text += ", " + why
	}
	return a
}

// where are the names of the nodes for which is reports true. Without an
// inventory there are none.
func (inv *Inventory) where(is func(Admitted) bool) []string {
	out := []string{}
	if inv != nil {
		for _, n := range inv.Nodes {
			if is(n) {
				out = append(out, n.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// pairs calls f for each name that either list has, in the order of names, with
// the entries of both; nil where there is none.
func pairs[T any](base, head []T, name func(T) string, f func(name string, was, is *T)) {
	was, is := map[string]*T{}, map[string]*T{}
	names := map[string]bool{}
	for _, side := range []struct {
		list []T
		into map[string]*T
	}{{base, was}, {head, is}} {
		for i := range side.list {
			n := name(side.list[i])
			side.into[n], names[n] = &side.list[i], true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		f(n, was[n], is[n])
	}
}

// admitting gathers entries.
type admitting struct {
	inv *Inventory
	out []Admission
}

func (a *admitting) add(kind, name, change, effect, text string, nodes []string) {
	if nodes == nil {
		nodes = []string{}
	}
	a.out = append(a.out, Admission{Kind: kind, Name: name, Change: change, Effect: effect, Text: text, Nodes: nodes})
}

// unsure reports whether there may be nodes of which the inventory does not say
// what they were admitted by.
func (inv *Inventory) unsure() bool {
	return inv == nil || slices.ContainsFunc(inv.Nodes, func(n Admitted) bool { return n.Basis == "" })
}

// put is the entry for those who were admitted by something that is gone, or that
// says another thing. Where an inventory knows that there are none, there is one
// only if nobody is admitted by it any more.
func (a *admitting) put(kind, name, change, why string, nodes []string) {
	what := fmt.Sprintf("%s %q", kind, name)
	switch {
	case len(nodes) == 1:
		a.add(kind, name, change, PutsOut, fmt.Sprintf("%s is out: %s %s", nodes[0], what, why), nodes)
	case len(nodes) > 1:
		a.add(kind, name, change, PutsOut, fmt.Sprintf("%s are out: %s %s", strings.Join(nodes, ", "), what, why), nodes)
	case a.inv.unsure():
		a.add(kind, name, change, PutsOut, fmt.Sprintf("whoever joined by %s is out: it %s", what, why), nil)
	case change == Removed:
		a.add(kind, name, change, PutsOut, fmt.Sprintf("nobody may join by %s any more: it %s", what, why), nil)
	}
}

func (a *admitting) pin(name string, was, is *leaf.Node) {
	if was == nil {
		a.add("pin", name, Added, LetsIn, mayJoin(is), nil)
		return
	}
	var says []string
	anew := false
	if is != nil {
		if anew = !is.Key.Equal(was.Key); anew {
			says = append(says, "another key")
		}
		if is.User != was.User || !slices.Equal(is.Tags, was.Tags) {
			says = append(says, "another owner, "+owner(is))
		}
		if is.Address4 != was.Address4 && is.Address4.IsValid() {
			says = append(says, "another address, "+is.Address4.String())
		}
		if len(says) == 0 {
			if is.Address4 != was.Address4 { // none is pinned any more: a node keeps the one it has
				a.add("pin", name, Changed, "", fmt.Sprintf("pin %q has no address; its node keeps the one it has", name), nil)
			}
			return
		}
	}
	nodes := a.inv.where(func(n Admitted) bool {
		return n.pinnedBy(was) && n.keptBy(was) && (is == nil || !n.keptBy(is))
	})
	if is == nil {
		a.put("pin", name, Removed, "is gone", nodes)
		return
	}
	a.put("pin", name, Changed, "has "+strings.Join(says, " and "), nodes)
	if anew || len(nodes) == 0 && !a.inv.has(was) {
		a.add("pin", name, Changed, LetsIn, mayJoin(is), nil) // a key that is out does not join again
	}
}

// pinnedBy reports whether a node was admitted by the pin. Inventories that do not
// say by what a node was admitted have its identity.
func (n Admitted) pinnedBy(pin *leaf.Node) bool {
	if n.Basis == "" {
		return n.ID == pin.Key.NodeID()
	}
	return n.Basis == "pin "+pin.Name
}

// keptBy reports whether the pin admits the node as what it is. What the inventory
// does not say of a node, it has as the pin has it.
func (n Admitted) keptBy(pin *leaf.Node) bool {
	return (n.ID.IsZero() || n.ID == pin.Key.NodeID()) && n.User == pin.User &&
		sameTags(n.Tags, pin.Tags) &&
		(!pin.Address4.IsValid() || !n.Address4.IsValid() || n.Address4 == pin.Address4)
}

// sameTags compares the tags of a node of the inventory with sorted ones.
func sameTags(of, sorted []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(of)), sorted)
}

// has reports whether a node that the pin admitted is in the inventory.
func (inv *Inventory) has(pin *leaf.Node) bool {
	return inv != nil && slices.ContainsFunc(inv.Nodes, func(n Admitted) bool { return n.pinnedBy(pin) })
}

func mayJoin(pin *leaf.Node) string {
	return fmt.Sprintf("the holder of %s may join as %s (%s)", shortKey(pin.Key), pin.Name, owner(pin))
}

func owner(pin *leaf.Node) string {
	if pin.User != "" {
		return pin.User
	}
	return tagText(pin.Tags)
}

func tagText(tags []string) string {
	var out []string
	for _, t := range tags {
		out = append(out, "tag:"+t)
	}
	return strings.Join(out, ", ")
}

// shortKey is enough of a key for a person to tell it from others; the place
// beside it has all of it.
func shortKey(k key.IdentityPublic) string {
	const letters = 8
	s := k.String()
	return s[:min(len(s), len("idpub:")+letters)] + "…"
}

func (a *admitting) enrolment(name string, was, is *leaf.Enrolment) {
	joined := func(n Admitted) bool { // an admission has exactly the entry's tags
		return n.Basis == "enrolment "+name && sameTags(n.Tags, was.Tags)
	}
	switch {
	case was == nil:
		a.add("enrolment", name, Added, LetsIn, fmt.Sprintf("whoever has the secret of enrolment %q may join as %s, named %s%s", name, tagText(is.Tags), strings.Join(is.Names, ", "), joinsUntil(is)), nil)
		return
	case is == nil:
		a.put("enrolment", name, Removed, "is gone", a.inv.where(joined))
		return
	}
	var says []string
	if !slices.Equal(was.Tags, is.Tags) {
		a.put("enrolment", name, Changed, "has other tags", a.inv.where(joined))
		says = append(says, "other tags")
	}
	if !was.Key.Equal(is.Key) {
		says = append(says, "another key")
	}
	if !slices.Equal(was.Names, is.Names) {
		says = append(says, "other names")
	}
	longer := !was.Expires.IsZero() && (is.Expires.IsZero() || is.Expires.After(was.Expires))
	if longer {
		says = append(says, "a later end")
	}
	switch {
	case len(says) > 0:
		a.add("enrolment", name, Changed, LetsIn, fmt.Sprintf("enrolment %q has %s: whoever has its secret may join as %s, named %s%s",
			name, strings.Join(says, " and "), tagText(is.Tags), strings.Join(is.Names, ", "), joinsUntil(is)), nil)
	case !is.Expires.Equal(was.Expires):
		a.add("enrolment", name, Changed, "", fmt.Sprintf("enrolment %q admits nobody from %s on; those it admitted stay", name, Moment(is.Expires)), nil)
	}
}

func joinsUntil(e *leaf.Enrolment) string {
	if e.Expires.IsZero() {
		return ""
	}
	return ", until " + Moment(e.Expires)
}

func (a *admitting) admin(name string, was, is *acl.Selector) {
	switch {
	case was == nil:
		a.add("admins", name, Added, LetsIn, name+" may administer the network", nil)
	case is == nil:
		a.add("admins", name, Removed, "", name+" may no longer administer the network", nil)
	}
}

// groupAdmins are the entries for users who come into, or go out of, a group that
// administers the network before and after.
func (a *admitting) groupAdmins(base, head *Compiled) {
	both := func(group string) bool {
		s := acl.Selector{Kind: acl.KindGroup, Name: group}
		return slices.Contains(base.Admins, s) && slices.Contains(head.Admins, s)
	}
	admin := func(c *Compiled, user acl.Selector) (group string, is bool) {
		for _, m := range c.Principals[user] {
			if both(m.Group) {
				return m.Group, true
			}
		}
		return "", false
	}
	users := map[string]bool{}
	for _, c := range []*Compiled{base, head} {
		for p := range c.Principals {
			if p.Kind == acl.KindUser && !slices.Contains(c.Admins, p) {
				users[p.Name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		user := acl.Selector{Kind: acl.KindUser, Name: name}
		left, was := admin(base, user)
		joined, is := admin(head, user)
		switch {
		case is && !was:
			a.add("admins", name, Added, LetsIn, fmt.Sprintf("%s may administer the network, by group:%s", name, joined), nil)
		case was && !is:
			a.add("admins", name, Removed, "", fmt.Sprintf("%s may no longer administer the network, by group:%s", name, left), nil)
		}
	}
}

// service is the entry for a relay or coordinator: a program that nodes trust by
// its key.
func (a *admitting) service(kind, name string, was, is, key, addr bool) {
	change, says := Changed, ""
	switch {
	case !was:
		change, says = Added, "is new"
	case !is:
		change, says = Removed, "is gone"
	case key && addr:
		says = "has another key and another address"
	case key:
		says = "has another key"
	case addr:
		says = "has another address"
	default:
		return
	}
	a.add(kind, name, change, "", kind+" "+name+" "+says, nil)
}
