package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
)

// A Node is an admitted node.
type Node struct {
	ID           key.NodeID
	Admission    *papers.Admission // of the highest serial
	AdmissionDoc []byte
	Record       *papers.Record // nil until it puts one
	RecordDoc    []byte
	Ended        string           // why it is out; empty while it is in
	Groups       []acl.Membership // under the newest revision

	selectors  []string   // that select it; none while it is out
	principals []key.Hash // H(name) of its principal leaves
}

// Selectors are those that select the node, but for autogroup:self. Read only.
func (n *Node) Selectors() []string { return n.selectors }

// Person is the selector, which no policy can write, of the nodes of the same
// user; empty for a tagged node.
func (n *Node) Person() string {
	if u := n.Admission.User; u != nil && n.Ended == "" {
		return "\x00person " + u.Issuer + " " + u.Subject
	}
	return ""
}

// A LogEntry is what the admission log says at one position.
type LogEntry struct {
	Log        int64
	Hash, Prev key.Hash
}

// Admit adds an admission to the log, and makes it the node's where it is the
// newest of its identity key. A join request of that key is answered with it.
func (s *State) Admit(a *papers.Admission, doc []byte) error {
	return s.write(func(txn *memdb.Txn) error {
		if err := txn.Insert(tableLog, LogEntry{a.Log, a.Hash(), a.Prev}); err != nil {
			return err
		}
		id := a.Identity.NodeID()
		next := &Node{ID: id}
		if old, ok := one[*Node](&Snapshot{txn}, nil, tableNodes, indexID, id); ok {
			if old.Admission.Serial > a.Serial {
				return nil
			}
			*next = *old
		}
		next.Admission, next.AdmissionDoc = a, doc
		if err := place(txn, next); err != nil {
			return err
		}
		if j, ok := one[*Join](&Snapshot{txn}, nil, tableJoins, indexID, id); ok {
			return txn.Delete(tableJoins, j)
		}
		return nil
	})
}

// SetRecord replaces a node's record.
func (s *State) SetRecord(id key.NodeID, r *papers.Record, doc []byte) error {
	return s.write(func(txn *memdb.Txn) error {
		old, ok := one[*Node](&Snapshot{txn}, nil, tableNodes, indexID, id)
		if !ok {
			return nil
		}
		next := *old
		next.Record, next.RecordDoc = r, doc
		return txn.Insert(tableNodes, &next)
	})
}

// place computes where a node stands under the newest revision and ended list,
// and inserts it.
func place(txn *memdb.Txn, n *Node) error {
	s := &Snapshot{txn}
	next := *n
	next.Ended, next.Groups, next.selectors, next.principals = "", nil, nil, nil
	a := next.Admission
	for _, p := range a.Principals() {
		name := leaf.PrincipalName(p)
		next.principals = append(next.principals, leaf.NameHash(name))
		if l, ok := s.Principal(name); ok {
			next.Groups = append(next.Groups, l.Groups...)
		}
	}
	if list := s.Ended(nil).List; list.Has(next.ID) {
		next.Ended = list.Nodes[next.ID]
		return txn.Insert(tableNodes, &next)
	}
	next.selectors = selectorsOf(a, next.Groups)
	if p := next.Person(); p != "" {
		next.selectors = append(next.selectors, p)
	}
	return txn.Insert(tableNodes, &next)
}

// selectorsOf are the selectors that select a node at some time: a membership
// that has ended counts until a revision takes it away, since a verifier's clock
// may be behind.
func selectorsOf(a *papers.Admission, groups []acl.Membership) []string {
	out := []string{"*", acl.Selector{Kind: acl.KindNode, Name: a.Name}.String()}
	for _, p := range a.Principals() {
		out = append(out, p.String())
	}
	if a.User != nil {
		out = append(out, acl.Selector{Kind: acl.KindMember}.String())
	} else {
		out = append(out, acl.Selector{Kind: acl.KindTagged}.String())
	}
	for _, m := range groups {
		out = append(out, acl.Selector{Kind: acl.KindGroup, Name: m.Group}.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Node is the node of that id.
func (s *Snapshot) Node(w *Watch, id key.NodeID) (*Node, bool) {
	return one[*Node](s, w, tableNodes, indexID, id)
}

// Nodes are all admitted nodes, those that are out too.
func (s *Snapshot) Nodes(w *Watch) []*Node { return all[*Node](s, w, tableNodes, indexID) }

// Bearing are the nodes with the principal whose leaf has that name hash.
func (s *Snapshot) Bearing(principal key.Hash) []*Node {
	return all[*Node](s, nil, tableNodes, indexPrincipal, principal)
}

// LogAt is the entry of the admission log at a position.
func (s *Snapshot) LogAt(n int64) (LogEntry, bool) {
	return one[LogEntry](s, nil, tableLog, indexID, n)
}

// LogEntries is the whole log, in order.
func (s *Snapshot) LogEntries() []LogEntry { return all[LogEntry](s, nil, tableLog, indexID) }

// Concerning are the nodes that may reach n, or that it may reach, by any grant:
// whatever the ports, the time, and what a grant excepts. Nodes that are out
// concern nobody.
func (s *Snapshot) Concerning(w *Watch, n *Node) map[key.NodeID]*Node {
	out := map[key.NodeID]*Node{}
	seen := map[string]bool{}
	members := func(selector string) {
		if selector == Self {
			selector = n.Person()
		}
		if selector == "" || seen[selector] {
			return
		}
		seen[selector] = true
		for _, m := range all[*Node](s, w, tableNodes, indexSelector, selector) {
			out[m.ID] = m
		}
	}
	along := func(selector string) {
		for _, e := range all[Edge](s, w, tableEdges, indexTo, selector) {
			members(e.From)
		}
		for _, e := range all[Edge](s, w, tableEdges, indexFrom, selector) {
			members(e.To)
		}
	}
	for _, selector := range n.selectors {
		along(selector)
	}
	if n.Person() != "" {
		// A grant with autogroup:self at one end is between nodes of one user. Where
		// n is not what stands at its other end, those are that are.
		var ends []string
		for _, e := range all[Edge](s, w, tableEdges, indexTo, Self) {
			ends = append(ends, e.From)
		}
		for _, e := range all[Edge](s, w, tableEdges, indexFrom, Self) {
			ends = append(ends, e.To)
		}
		if len(ends) > 0 {
			for _, m := range all[*Node](s, w, tableNodes, indexSelector, n.Person()) {
				at := func(end string) bool { return end == Self || slices.Contains(m.selectors, end) }
				if slices.ContainsFunc(ends, at) {
					out[m.ID] = m
				}
			}
		}
	}
	delete(out, n.ID)
	return out
}
