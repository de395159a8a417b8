package reach

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A space is the classes of all ends that exist on some side, or might.
type space struct {
	sides   []spaceSide
	used    map[acl.Selector]bool // by rules, approvals and questions
	classes []class
	users   []string  // by number
	owned   [][]int32 // user → classes that have a node of theirs
	real    []string  // names of nodes of the inventories, by number

	tagSets    [][]string           // by number
	prefixes   []acl.Selector       // in use, by name
	where      *prefixIndex         // of prefixes
	own        []netip.Prefix       // the network's, where addresses in them are selected
	local      map[netip.Addr]int32 // local addresses of nodes → class
	assumed    bool                 // routes are, as no inventory tells about them
	unlocal    bool                 // no inventory tells local addresses
	told       map[string]bool      // nodes of which an inventory does
	claimed    []int32              // classes of listed users with claims
	exceptedAs map[string]string    // how users are excepted, where there are claims
	supposed   []netip.Prefix       // taken to be somewhere, as questions ask so
}

// A spaceSide is a policy with an inventory.
type spaceSide struct {
	policy *Compiled
	inv    *Inventory
}

// endKind is what an end is.
type endKind uint8

const (
	nodeEnd     endKind = iota // a node
	addressEnd                 // an address behind a node, through an approved route
	holderEnd                  // a node of which only the address is known
	internetEnd                // what is beyond exit nodes
)

// A class is ends that nothing in the space tells apart.
type class struct {
	kind   endKind
	family uint8    // of the addresses by which it is met: 4, 6, or 0 for both
	until  [3]int64 // when it is gone from each side; 0: it is not there

	// Of nodes.
	user    bool    // of users; otherwise tagged
	several bool    // more than one node: an imagined one stands for as many as may be
	twice   bool    // two nodes of one user
	many    bool    // of more users than are listed
	claimed string  // of listed users with a claim: what they are called
	named   string  // where the name tells it apart
	rep     Node    // one of them
	users   []int32 // owners, rising
	tagSets []int32 // of imagined ones, rising
	real    []int32 // of the inventories, rising
	addr    netip.Addr

	// Of addresses.
	ranges []addrRange
	within []acl.Selector // prefixes that are used and contain it
}

// newSpace cuts the classes.
func newSpace(sides []spaceSide, asked []Question) *space {
	sp := &space{sides: sides, used: map[acl.Selector]bool{}}
	for _, s := range sides {
		for _, sel := range s.policy.selectors() {
			sp.used[sel] = true
		}
	}
	for _, q := range asked {
		for _, r := range slices.Concat(q.From, q.To) {
			sp.used[r.Selector] = true
			for _, x := range r.Except {
				sp.used[x.Selector] = true
			}
		}
	}
	sp.assume(asked)
	sp.ownPrefixes()
	b := &cutter{sp: sp, index: map[classKey]int32{}, userIDs: map[string]int32{}, sigs: map[string]int32{}, tagIDs: map[string]int32{}}
	b.cut()
	sp.addresses()
	return sp
}

// A classKey is what tells nodes apart.
type classKey struct {
	sig    int32 // of the principals
	name   string
	until  [3]int64
	family uint8
	within string // prefixes that contain the address
}

// A cutter sorts nodes into classes.
type cutter struct {
	sp      *space
	index   map[classKey]int32
	userIDs map[string]int32
	sigs    map[string]int32
	userSig []int32
	tagIDs  map[string]int32
	tagSig  []int32
	key     []byte
}

// cut adds the nodes: imagined, pinned, and of the inventories.
func (b *cutter) cut() {
	sp := b.sp
	users, sets := map[string]bool{}, map[string][]string{}
	claims := map[string]bool{}
	tagged := func(tags ...string) {
		tags = slices.Sorted(slices.Values(tags))
		sets[strings.Join(tags, "+")] = tags
	}
	principal := func(s acl.Selector) {
		switch s.Kind {
		case acl.KindUser:
			users[s.Name] = true
		case acl.KindTag:
			tagged(s.Name)
		case acl.KindClaim:
			claims[s.Name] = true
		}
	}
	for s := range sp.used {
		principal(s)
	}
	pins := map[string]Node{}
	for i, side := range sp.sides {
		if i > 0 && side.policy == sp.sides[i-1].policy {
			continue
		}
		for p := range side.policy.Principals {
			principal(p)
		}
		for _, e := range side.policy.Enrolments {
			tagged(e.Tags...)
			for _, t := range e.Tags {
				tagged(t)
			}
		}
		for _, p := range side.policy.Pins {
			pins[p.Name] = Node{Name: p.Name, User: p.User, Tags: p.Tags}
			if p.User != "" {
				users[p.User] = true
			} else {
				tagged(p.Tags...)
			}
		}
	}
	admitted := b.admitted()
	for _, a := range admitted {
		delete(pins, a.node.Name)
		if a.node.User != "" {
			users[a.node.User] = true
		}
	}
	for _, side := range sp.sides {
		if side.inv != nil {
			for _, u := range side.inv.Users {
				users[u.Email] = true
			}
		}
	}
	everywhere := [3]int64{forever, forever, forever}
	for _, u := range slices.Sorted(maps.Keys(users)) {
		b.user(u)
	}
	for _, s := range slices.Sorted(maps.Keys(sets)) {
		b.imagine(Node{Tags: sets[s]}, everywhere)
	}
	for _, u := range sp.users {
		b.imagine(Node{User: u}, everywhere)
	}
	for _, c := range slices.Sorted(maps.Keys(claims)) {
		b.imagine(Node{User: "(any user with claim " + c + ")", Claim: c, Stranger: true}, everywhere)
	}
	b.imagine(Node{User: stranger, Stranger: true}, everywhere)
	b.claimed(slices.Sorted(maps.Keys(claims)))
	for _, name := range slices.Sorted(maps.Keys(pins)) {
		b.imagine(pins[name], everywhere)
	}
	for _, a := range admitted {
		b.real(a)
	}
	sp.owned = make([][]int32, len(sp.users))
	for i := range sp.classes {
		c := &sp.classes[i]
		slices.Sort(c.users)
		listed := len(c.users)
		c.users = slices.Compact(c.users)
		slices.Sort(c.tagSets)
		c.tagSets = slices.Compact(c.tagSets)
		c.twice = c.twice || listed > len(c.users)
		c.several = c.several || len(c.real) > 1
		for _, u := range c.users {
			sp.owned[u] = append(sp.owned[u], int32(i))
		}
	}
}

// An admittedNode is a node of the inventories, with the sides that have it.
type admittedNode struct {
	node  Node
	own   []netip.Addr
	until [3]int64
}

// admitted are the nodes of all inventories, each once.
func (b *cutter) admitted() (out []admittedNode) {
	type identity struct{ name, who string }
	index := map[identity]int{}
	shared := true
	for _, s := range b.sp.sides {
		shared = shared && s.inv == b.sp.sides[0].inv
	}
	for i, s := range b.sp.sides {
		if s.inv == nil {
			continue
		}
		for j := range s.inv.Nodes {
			a := &s.inv.Nodes[j]
			n := admittedNode{node: Node{Name: a.Name, User: a.User, Tags: a.tags(), Real: true}}
			if n.node.User == "" && len(n.node.Tags) == 0 {
				continue // it is nobody: nothing selects it
			}
			if len(b.sp.own) > 0 {
				n.own = a.own()
			}
			if shared {
				n.until = [3]int64{forever, forever, forever}
				out = append(out, n)
				continue
			}
			id := identity{a.Name, a.User + "|" + strings.Join(n.node.Tags, "+")}
			at, ok := index[id]
			if !ok {
				at = len(out)
				index[id] = at
				out = append(out, n)
			}
			out[at].until[i] = forever
		}
		if shared {
			break
		}
	}
	byName := func(a, b admittedNode) int { return strings.Compare(a.node.Name, b.node.Name) }
	if !slices.IsSortedFunc(out, byName) {
		slices.SortStableFunc(out, byName) // so that numbers are in the order of names
	}
	return out
}

// user numbers a user, and what tells users apart.
func (b *cutter) user(u string) int32 {
	if id, ok := b.userIDs[u]; ok {
		return id
	}
	id := int32(len(b.sp.users))
	b.userIDs[u] = id
	b.sp.users = append(b.sp.users, u)
	b.key = append(b.key[:0], 'u')
	if b.sp.used[acl.Selector{Kind: acl.KindUser, Name: u}] {
		b.key = append(b.key, u...)
	}
	b.memberships(acl.Selector{Kind: acl.KindUser, Name: u})
	b.userSig = append(b.userSig, b.sig())
	return id
}

// memberships appends those in groups that are used to the key.
func (b *cutter) memberships(p acl.Selector) {
	for i, side := range b.sp.sides {
		if i > 0 && side.policy == b.sp.sides[i-1].policy {
			continue
		}
		b.key = append(b.key, 0)
		for _, m := range side.policy.Principals[p] {
			if b.sp.used[acl.Selector{Kind: acl.KindGroup, Name: m.Group}] {
				b.key = append(b.key, m.Group...)
				b.key = append(b.key, 1)
				b.key = binary.BigEndian.AppendUint64(b.key, uint64(unix(m.Until)))
			}
		}
	}
}

func (b *cutter) sig() int32 {
	id, ok := b.sigs[string(b.key)]
	if !ok {
		id = int32(len(b.sigs))
		b.sigs[string(b.key)] = id
	}
	return id
}

// tags numbers a set of tags, and what tells sets apart.
func (b *cutter) tags(tags []string) int32 {
	text := strings.Join(tags, "+")
	if id, ok := b.tagIDs[text]; ok {
		return id
	}
	id := int32(len(b.sp.tagSets))
	b.tagIDs[text] = id
	b.sp.tagSets = append(b.sp.tagSets, tags)
	b.key = append(b.key[:0], 't')
	for _, t := range tags {
		if b.sp.used[acl.Selector{Kind: acl.KindTag, Name: t}] {
			b.key = append(append(b.key, t...), '+')
		}
	}
	for _, t := range tags {
		b.memberships(acl.Selector{Kind: acl.KindTag, Name: t})
	}
	b.tagSig = append(b.tagSig, b.sig())
	return id
}

// class finds the class of a node that is met at an address, if that matters.
func (b *cutter) class(n Node, until [3]int64, addr netip.Addr) *class {
	k := classKey{until: until}
	switch {
	case n.Claim != "":
		b.key = append(append(b.key[:0], 'c'), n.Claim...)
		k.sig = b.sig()
	case n.Stranger:
		b.key = append(b.key[:0], 's')
		k.sig = b.sig()
	case n.User != "":
		k.sig = b.userSig[b.user(n.User)]
	default:
		k.sig = b.tagSig[b.tags(n.Tags)]
	}
	if n.Name != "" && b.sp.used[acl.Selector{Kind: acl.KindNode, Name: n.Name}] {
		k.name = n.Name
	}
	var within []acl.Selector
	if addr.IsValid() {
		k.family = family(addr)
		if b.sp.isOwn(addr) {
			within = b.sp.containing(addr)
		}
		for _, p := range within {
			k.within += p.Name + " "
		}
	}
	i, ok := b.index[k]
	if !ok {
		i = int32(len(b.sp.classes))
		b.index[k] = i
		b.sp.classes = append(b.sp.classes, class{
			until: until, user: n.User != "", many: n.Stranger, named: k.name, rep: n, family: k.family, within: within, addr: addr,
		})
	}
	return &b.sp.classes[i]
}

func (b *cutter) imagine(n Node, until [3]int64) {
	c := b.class(n, until, netip.Addr{})
	b.owner(c, n)
	if n.Name == "" {
		c.several, c.twice = true, n.User != ""
	}
	if n.User == "" {
		c.tagSets = append(c.tagSets, b.tagIDs[strings.Join(n.Tags, "+")])
	}
}

func (b *cutter) owner(c *class, n Node) {
	if n.User != "" && !n.Stranger {
		c.users = append(c.users, b.userIDs[n.User])
	}
}

// real adds a node of an inventory: where selected prefixes tell its addresses
// apart, it is in a class by each.
func (b *cutter) real(a admittedNode) {
	id := int32(len(b.sp.real))
	b.sp.real = append(b.sp.real, a.node.Name)
	addrs := a.own
	if !slices.ContainsFunc(addrs, func(x netip.Addr) bool { return b.sp.isOwn(x) && b.sp.where.contains(x) }) {
		addrs = []netip.Addr{{}}
	}
	for _, x := range addrs {
		c := b.class(a.node, a.until, x)
		if n := len(c.real); n > 0 && c.real[n-1] == id {
			continue // by another of its addresses
		}
		c.real = append(c.real, id)
		b.owner(c, a.node)
		if a.node.User == "" {
			c.tagSets = append(c.tagSets, b.tagIDs[strings.Join(a.node.Tags, "+")])
		}
	}
}

// isOwn reports whether an address is one by which prefixes select nodes.
func (sp *space) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(sp.own, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sharing are the classes that have a node of an owner of the class, it included;
// none for tagged nodes. Strangers share with themselves.
func (sp *space) sharing(c int) []int32 {
	cl := &sp.classes[c]
	if cl.kind != nodeEnd || !cl.user {
		return nil
	}
	if cl.many {
		return []int32{int32(c)}
	}
	if len(cl.users) == 1 {
		return sp.owned[cl.users[0]]
	}
	alone := true
	for _, u := range cl.users {
		alone = alone && len(sp.owned[u]) == 1
	}
	if alone {
		return []int32{int32(c)}
	}
	var out []int32
	for _, u := range cl.users {
		out = append(out, sp.owned[u]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// meets reports which pairs of the two classes there are: of ends of one user, and
// of ends that are not.
func (sp *space) meets(from, to int) (same, other bool) {
	f, t := &sp.classes[from], &sp.classes[to]
	if f.family != 0 && t.family != 0 && f.family != t.family {
		return false, false
	}
	switch {
	case from == to && f.user:
		return f.twice, f.many || len(f.users) > 1
	case from == to:
		return false, f.several
	case !f.user || !t.user || f.many || t.many:
		return false, true
	}
	same = shares(f.users, t.users)
	return same, len(f.users) > 1 || len(t.users) > 1 || !same
}

// shares reports whether two rising lists have a number in common.
func shares(a, b []int32) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] == b[0]:
			return true
		case a[0] < b[0]:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// refs are the selectors of references and their exceptions.
func refs(list []model.Ref) (out []acl.Selector) {
	for _, r := range list {
		out = append(out, r.Selector)
		for _, x := range r.Except {
			out = append(out, x.Selector)
		}
	}
	return out
}
