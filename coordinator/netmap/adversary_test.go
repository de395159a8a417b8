package netmap_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/trust"
)

// A history is a network with everything that was ever signed in it, and in
// plain words what that meant. The oracle reads the words, never a document.
type history struct {
	*netmaptest.World
	people    []*person
	chapters  []*chapter
	lists     []*list // every ended list
	keyNumber int     // of the admission key in force
}

// A person is a node and all its papers.
type person struct {
	*netmaptest.Node
	name, who  string
	admissions []admission
	records    [][]byte
	out        bool // on the newest ended list
	followed   bool // by another node of that name
}

type admission struct {
	doc     []byte
	expires time.Time
	decided trust.Position
	key     int // which admission key signed
}

// A chapter is a revision and what it means.
type chapter struct {
	*netmaptest.Revision
	policy netmaptest.Policy
	ended  map[key.NodeID]bool
	key    int // the admission key that its root names
}

type list struct {
	doc    []byte
	hash   key.Hash
	epoch  int64
	number int64
	nodes  map[key.NodeID]bool
}

var cast = []struct{ name, who string }{
	{"ledger-1", "tag:accounting"}, {"alice", "alice@acme.example"}, {"bob", "bob@acme.example"},
	{"carol", "carol@acme.example"}, {"worker", "tag:accounting tag:batch"},
}

func draw[T any](t *rapid.T, label string, from ...T) T {
	return from[rapid.IntRange(0, len(from)-1).Draw(t, label)]
}

func chance(t *rapid.T, label string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(t, label) < percent
}

// tell makes a history.
func tell(tb testing.TB, t *rapid.T) *history {
	h := &history{World: netmaptest.New(tb, start)}
	h.note()
	for _, c := range cast {
		h.admit(c.name, c.who)
	}
	h.publish(t)
	for range rapid.IntRange(2, 6).Draw(t, "revisions") {
		h.Advance(time.Duration(rapid.IntRange(1, 20).Draw(t, "minutes")) * time.Minute)
		p := draw(t, "who", h.people...)
		switch rapid.IntRange(0, 8).Draw(t, "what happens") {
		case 0, 1, 2: // the policy changes, as in every revision
		case 3: // a node is out
			p.out = true
			h.End(p.ID)
			h.note()
		case 4: // a node is out, and another gets its name
			if p.name == "alice" || p.name == "ledger-1" || p.out { // those that verify here stay
				break
			}
			p.out, p.followed = true, true
			h.End(p.ID)
			h.note()
			h.publish(t)
			h.Advance(time.Minute)
			h.admit(p.name, p.who)
		case 5: // a session is renewed, or shortened
			h.renew(p, h.Now.Add(time.Duration(rapid.IntRange(0, 180).Draw(t, "session"))*time.Minute))
		case 6: // a WireGuard key is rotated
			p.WG = key.NewWG()
			h.SignRecord(p.Node, nil)
			p.records = append(p.records, p.Papers.Record)
		case 7: // the admission key is replaced; somebody is not admitted anew
			k, err := trust.NewSigningKey(fmt.Sprintf("admission-%d", h.keyNumber+2))
			if err != nil {
				t.Fatal(err)
			}
			h.AdmissionKey, h.keyNumber = k, h.keyNumber+1
			h.root(h.Root.Epoch)
			h.End()
			h.note()
			for _, q := range h.people {
				if q != p || q.name == "alice" || q.name == "ledger-1" {
					h.SignAdmission(q.Node, *q.Admission)
					h.keep(q)
				}
			}
		case 8: // a new epoch, whose ended list begins again
			h.root(h.Root.Epoch + 1)
			var out []key.NodeID
			for _, q := range h.people {
				if q.out = q.followed; q.out {
					out = append(out, q.ID)
				}
			}
			h.End(out...)
			h.note()
		}
		h.publish(t)
	}
	return h
}

func (h *history) root(epoch int64) {
	h.AddRoot(trust.Root{
		Epoch:         epoch,
		RootThreshold: 1, RootKeys: []trust.VKey{h.RootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{h.PolicyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{h.AdmissionKey.Public()},
	})
}

func (h *history) note() {
	l := &list{doc: h.EndedDoc, hash: h.Ended.Hash(), epoch: h.Ended.Epoch, number: h.Ended.Number, nodes: map[key.NodeID]bool{}}
	for id := range h.Ended.Nodes {
		l.nodes[id] = true
	}
	h.lists = append(h.lists, l)
}

func (h *history) admit(name, who string) {
	p := &person{Node: h.Admit(name, who), name: name, who: who}
	if n := len(h.chapters); n > 0 {
		a := *p.Admission
		a.Decided = h.chapters[n-1].Manifest.Position
		h.SignAdmission(p.Node, a)
	}
	h.keep(p)
	p.records = append(p.records, p.Papers.Record)
	h.people = append(h.people, p)
}

func (h *history) keep(p *person) {
	p.admissions = append(p.admissions, admission{p.Papers.Admission, p.Admission.Expires, p.Admission.Decided, h.keyNumber})
}

func (h *history) renew(p *person, expires time.Time) {
	a := *p.Admission
	a.Serial, a.Issued, a.Expires = a.Serial+1, h.Now, expires
	h.SignAdmission(p.Node, a)
	h.keep(p)
}

func (h *history) publish(t *rapid.T) {
	p := netmaptest.Policy{Groups: map[string][]string{}, Until: map[string]time.Time{}}
	for _, g := range []string{"books", "staff"} {
		for _, m := range []string{"alice@acme.example", "bob@acme.example", "carol@acme.example", "tag:accounting", "tag:batch"} {
			if chance(t, "member", 40) {
				p.Groups[g] = append(p.Groups[g], m)
				if chance(t, "until", 30) {
					p.Until[g+" "+m] = h.Now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "until")) * time.Minute)
				}
			}
		}
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
		r := netmaptest.Rule{
			Name:   fmt.Sprintf("rule-%d", i),
			From:   draw(t, "from", "group:books", "group:staff", "alice@acme.example", "bob@acme.example tag:batch", "tag:accounting", "*", "autogroup:member", "autogroup:tagged", "node:bob"),
			To:     draw(t, "to", "tag:accounting", "group:books", "group:staff", "alice@acme.example", "*", "node:ledger-1", "autogroup:member", "autogroup:tagged"),
			Except: draw(t, "except", "", "", "group:staff", "bob@acme.example", "tag:batch"),
			Allow:  draw(t, "allow", "tcp/80", "tcp/443", "tcp/80 tcp/443"),
		}
		if chance(t, "rule until", 30) {
			r.Until = h.Now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "until")) * time.Minute)
		}
		p.Rules = append(p.Rules, r)
	}
	c := &chapter{policy: p, ended: map[key.NodeID]bool{}, key: h.keyNumber}
	for id := range h.Ended.Nodes {
		c.ended[id] = true
	}
	c.Revision = h.Publish(p)
	h.chapters = append(h.chapters, c)
}

// selects says what a selector means, from its text and the policy's words.
func (c *chapter) selects(sel string, p *person, at time.Time) bool {
	principals := strings.Fields(p.who)
	tagged := strings.HasPrefix(p.who, "tag:")
	group, isGroup := strings.CutPrefix(sel, "group:")
	switch {
	case isGroup:
		return slices.ContainsFunc(c.policy.Groups[group], func(m string) bool {
			until := c.policy.Until[group+" "+m]
			return slices.Contains(principals, m) && (until.IsZero() || at.Before(until))
		})
	case sel == "*":
		return true
	case sel == "autogroup:member":
		return !tagged
	case sel == "autogroup:tagged":
		return tagged
	case strings.HasPrefix(sel, "node:"):
		return sel == "node:"+p.name
	}
	return slices.Contains(principals, sel)
}

// allows says whether the revision lets one node reach another.
func (c *chapter) allows(from, to *person, port uint16, at time.Time) bool {
	return c.member(from, at) && slices.ContainsFunc(c.policy.Rules, func(r netmaptest.Rule) bool {
		any := func(sels string) bool {
			return slices.ContainsFunc(strings.Fields(sels), func(s string) bool { return c.selects(s, from, at) })
		}
		return (r.Until.IsZero() || at.Before(r.Until)) && c.selects(r.To, to, at) && any(r.From) && !any(r.Except) &&
			slices.Contains(strings.Fields(r.Allow), fmt.Sprintf("tcp/%d", port))
	})
}

// member says whether a node is in the network as of the revision: not ended, and
// admitted by a key in force for long enough and early enough.
func (c *chapter) member(p *person, at time.Time) bool {
	return !c.ended[p.ID] && slices.ContainsFunc(p.admissions, func(a admission) bool {
		return a.key >= c.key && (a.expires.IsZero() || at.Before(a.expires)) && a.decided.Compare(c.Manifest.Position) <= 0
	})
}

// update is one that the adversary puts together.
func (h *history) update(t *rapid.T, me *person) netmap.Update {
	var u netmap.Update
	others := func() (out []*netmaptest.Node) {
		for _, p := range h.people {
			if p != me && chance(t, "peer", 70) {
				out = append(out, p.Node)
			}
		}
		return out
	}
	at := rapid.IntRange(0, len(h.chapters)-1).Draw(t, "revision")
	switch rapid.IntRange(0, 3).Draw(t, "sort of update") {
	case 0: // whole, of some revision, with the newest list and papers
		u = h.Everything(me.Node, h.chapters[at].Revision, others()...)
	case 1: // a step
		if at > 0 {
			u = h.Delta(me.Node, h.chapters[at-1].Revision, h.chapters[at].Revision, others()...)
		}
	case 2: // several steps at once, some without their lists
		for _, c := range h.chapters[at:] {
			doc := c.Doc
			if chance(t, "without changes", 15) {
				doc.Changes = nil
			}
			u.Revisions = append(u.Revisions, doc)
			u.Leaves = append(u.Leaves, h.Delta(me.Node, h.chapters[at].Revision, c.Revision, others()...).Leaves...)
		}
		u.Ended = h.EndedDoc
	}
	// Then things are exchanged for others, left out, and added.
	if chance(t, "roots", 30) {
		u.Roots = nil
		for range rapid.IntRange(0, 3).Draw(t, "roots") {
			u.Roots = append(u.Roots, draw(t, "root", h.Roots...))
		}
	}
	if chance(t, "list", 40) {
		u.Ended = draw(t, "list", h.lists...).doc
	}
	for range rapid.IntRange(0, 2).Draw(t, "more revisions") {
		doc := draw(t, "manifest", h.chapters...).Doc
		if chance(t, "other changes", 40) {
			doc.Changes = draw(t, "changes", h.chapters...).Doc.Changes
		}
		u.Revisions = append(u.Revisions, doc)
	}
	if n := len(u.Revisions); n > 1 && chance(t, "reorder", 30) {
		u.Revisions[0], u.Revisions[n-1] = u.Revisions[n-1], u.Revisions[0]
	}
	for range rapid.IntRange(0, 4).Draw(t, "more leaves") {
		r := draw(t, "leaf of", h.chapters...)
		l := h.Prove(r.Revision, draw(t, "leaf", h.names(r)...))
		if chance(t, "other content", 30) {
			l.Data = h.Prove(draw(t, "content of", h.chapters...).Revision, l.Name).Data
		}
		if chance(t, "other proof", 20) {
			l.Proof = h.Prove(draw(t, "proof of", h.chapters...).Revision, l.Name).Proof
		}
		if chance(t, "no proof", 30) {
			l.Proof = nil
		}
		if chance(t, "not absent", 10) {
			l.Absent = !l.Absent
		}
		u.Leaves = append(u.Leaves, l)
	}
	u.Leaves = slices.DeleteFunc(u.Leaves, func(netmap.Proved) bool { return chance(t, "withhold", 3) })
	if chance(t, "own admission", 30) {
		u.Admission = draw(t, "admission", draw(t, "admission of", h.people...).admissions...).doc
	}
	for range rapid.IntRange(0, 3).Draw(t, "more papers") {
		p := draw(t, "papers of", h.people...)
		x := netmap.Papers{Admission: draw(t, "admission", p.admissions...).doc, Record: draw(t, "record", p.records...)}
		if chance(t, "another's record", 10) {
			x.Record = draw(t, "record of", h.people...).Papers.Record
		}
		u.Peers = append(u.Peers, x)
	}
	for range rapid.IntRange(0, 1).Draw(t, "gone") {
		u.Gone = append(u.Gone, draw(t, "gone", h.people...).ID)
	}
	if chance(t, "damage", 20) {
		damage(t, &u)
	}
	return u
}

func (h *history) names(c *chapter) (out []string) {
	for name := range c.Leaves {
		out = append(out, name)
	}
	slices.Sort(out)
	return append(out, "principal/alice@acme.example", "principal/bob@acme.example", "principal/tag:accounting", "inbound/*", "inbound/group:books")
}

// damage flips a bit of one document, or cuts it.
func damage(t *rapid.T, u *netmap.Update) {
	docs := []*[]byte{&u.Ended, &u.Admission}
	for i := range u.Revisions {
		docs = append(docs, &u.Revisions[i].Manifest, &u.Revisions[i].Changes)
	}
	for i := range u.Leaves {
		docs = append(docs, &u.Leaves[i].Data, &u.Leaves[i].Proof)
	}
	for i := range u.Peers {
		docs = append(docs, &u.Peers[i].Admission, &u.Peers[i].Record)
	}
	doc := draw(t, "damaged", docs...)
	if len(*doc) == 0 {
		return
	}
	at := rapid.IntRange(0, len(*doc)-1).Draw(t, "at")
	if chance(t, "cut", 50) {
		*doc = (*doc)[:at]
		return
	}
	*doc = slices.Clone(*doc)
	(*doc)[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
}

// A witness watches one verifier and remembers what it has held.
type witness struct {
	h     *history
	me    *person
	state *netmap.State
	now   time.Time

	position trust.Position
	list     *list
	serials  map[key.NodeID]netmap.Serials
}

// check compares what the verifier enforces with the history.
func (w *witness) check(t *rapid.T) {
	have := w.state.Have()
	if have.Position.Compare(w.position) < 0 {
		t.Fatalf("%s went back from revision %v to %v", w.me.name, w.position, have.Position)
	}
	w.position = have.Position
	if i := slices.IndexFunc(w.h.lists, func(l *list) bool { return l.hash == have.EndedHash }); i >= 0 {
		l := w.h.lists[i]
		if w.list != nil && (l.epoch < w.list.epoch || l.epoch == w.list.epoch && l.number < w.list.number) {
			t.Fatalf("%s went back from ended list (%d, %d) to (%d, %d)", w.me.name, w.list.epoch, w.list.number, l.epoch, l.number)
		}
		w.list = l
	}
	for id, s := range have.Peers {
		if was := w.serials[id]; s != (netmap.Serials{}) {
			if s.Admission < was.Admission || s.Record < was.Record {
				t.Fatalf("%s went back from papers %+v to %+v of %s", w.me.name, was, s, id.Short())
			}
			w.serials[id] = s
		}
	}
	n := w.state.Netmap(w.now)
	var c *chapter
	for _, x := range w.h.chapters {
		if x.Manifest.Hash() == n.Manifest {
			c = x
		}
	}
	if c == nil {
		if n.Self != nil || len(n.Peers) > 0 || len(n.Inbound) > 0 {
			t.Fatalf("%s enforces something without a revision: %+v", w.me.name, n)
		}
		return
	}
	if n.Self != nil && (c.ended[w.me.ID] || w.list.nodes[w.me.ID]) {
		t.Fatalf("%s is ended, and its own netmap says that it is in", w.me.name)
	}
	for _, p := range n.Peers {
		i := slices.IndexFunc(w.h.people, func(q *person) bool { return q.ID == p.Subject.ID })
		from := w.h.people[i]
		if !c.member(from, w.now) || w.list.nodes[from.ID] {
			t.Fatalf("at %v, %s takes %s (%s) for a peer, which the revision does not", n.Position, w.me.name, from.name, from.ID.Short())
		}
		for _, port := range []uint16{22, 80, 443} {
			if may(n, from.name, port, w.now) && !c.allows(from, w.me, port, w.now) {
				t.Fatalf("at %v, %s lets %s reach tcp/%d, which the revision does not", n.Position, w.me.name, from.name, port)
			}
		}
	}
}

// TestAdversaryGainsNothing feeds verifiers whatever can be put together from
// documents that were ever signed. What they enforce is never more than the
// revision they claim allows, they never go back, and an honest update brings
// them to exactly what a new verifier would enforce.
func TestAdversaryGainsNothing(t *testing.T) {
	adopted, allowed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		h := tell(t, rt)
		now := h.Now.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "later")) * time.Minute)
		var verifiers []*witness
		for _, p := range h.people[:2] { // ledger-1 and alice
			verifiers = append(verifiers, &witness{h: h, me: p, state: netmap.New(h.Network, p.ID), now: now, serials: map[key.NodeID]netmap.Serials{}})
		}
		for range rapid.IntRange(1, 12).Draw(rt, "updates") {
			u := h.update(rt, draw(rt, "made for", verifiers...).me)
			for _, w := range verifiers {
				o := w.state.Accept(u, w.now)
				if !o.Changed && o.State != w.state {
					rt.Fatal("another state, and not changed")
				}
				if o.Adopted {
					adopted++
				}
				w.state = o.State
				if chance(rt, "restart", 20) {
					w.restart(rt)
				}
				w.check(rt)
			}
		}
		for _, w := range verifiers {
			allowed += w.recover(rt)
		}
	})
	if adopted == 0 || allowed == 0 {
		t.Errorf("adopted %d revisions and allowed %d flows: the adversary's sequences test nothing", adopted, allowed)
	}
}

func (w *witness) restart(t *rapid.T) {
	b, err := w.state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s, err := netmap.Load(w.h.Network, w.me.ID, b)
	if err != nil {
		t.Fatalf("%s does not start again with what it held: %v", w.me.name, err)
	}
	if again, err := s.Marshal(); err != nil || string(again) != string(b) {
		t.Fatalf("a state read from the disk is another than the one written (%v)", err)
	}
	w.state = s
}

// recover gives the verifier everything newest and compares it with the oracle,
// both ways.
func (w *witness) recover(t *rapid.T) (allowed int) {
	c := w.h.chapters[len(w.h.chapters)-1]
	var peers []*netmaptest.Node
	for _, p := range w.h.people {
		if p != w.me && !p.out {
			peers = append(peers, p.Node)
		}
	}
	w.state = w.state.Accept(w.h.Everything(w.me.Node, c.Revision, peers...), w.now).State
	w.check(t)
	n := w.state.Netmap(w.now)
	want := netmap.Expected(w.me.Admission, c.Manifest.Hash(), c.Tree, principals(c.Revision))
	if n.Position != c.Manifest.Position || n.Digest != want {
		t.Fatalf("after an honest update %s is at %v with digest %s, want %v and %s", w.me.name, n.Position, n.Digest.Short(), c.Manifest.Position, want.Short())
	}
	mine := w.me.admissions[len(w.me.admissions)-1]
	in := !w.me.out && (mine.expires.IsZero() || w.now.Before(mine.expires))
	if (n.Self != nil) != in {
		t.Fatalf("%s is in: got %v (out: %q), want %v", w.me.name, n.Self != nil, n.Out, in)
	}
	for _, p := range w.h.people {
		last := p.admissions[len(p.admissions)-1]
		live := in && p != w.me && !p.out && last.key == c.key && (last.expires.IsZero() || w.now.Before(last.expires))
		if _, got := n.Named(p.name); live && !got {
			t.Fatalf("after an honest update %s does not know %s: %+v", w.me.name, p.name, n.Nobodies)
		}
		if !live {
			continue
		}
		q, _ := n.Named(p.name)
		if q.WG != p.WG.Public() {
			t.Fatalf("%s has an old WireGuard key of %s", w.me.name, p.name)
		}
		for _, port := range []uint16{22, 80, 443} {
			got, want := may(n, p.name, port, w.now), c.allows(p, w.me, port, w.now)
			if got != want {
				t.Fatalf("after an honest update %s lets %s reach tcp/%d: got %v, want %v", w.me.name, p.name, port, got, want)
			}
			if got {
				allowed++
			}
		}
	}
	return allowed
}
