package filter

import (
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// Rules are what a node enforces, as its netmap has them.
type Rules struct {
	Self      *acl.Subject  // who this node is; nil is nobody, whom nothing reaches
	Addresses []netip.Addr  // this node's own
	Inbound   []acl.Inbound // what may reach it
	Peers     []Peer
}

// A Peer is a node that this one may exchange packets with, if rules allow.
type Peer struct {
	Subject   *acl.Subject
	Addresses []netip.Addr // admitted for it, and nobody else's
}

// Compiled is Rules in the form that packets are judged by. It never changes.
type Compiled struct {
	own       []packet.Addr
	peers     []peerRules
	byAddr    map[packet.Addr]int32 // to peers
	rules     []string              // names
	nextEnd   time.Time
	contested []netip.Addr
}

// peerRules are the rules for one peer.
type peerRules struct {
	id     key.NodeID
	name   string
	until  int64 // when its session or this node's ends
	grants *grants
}

// Compile compiles rules at an instant, the filter's clock's. Until NextEnd the
// result judges as acl.Judge does; after it, it allows nothing that acl.Judge
// refuses. An address that two nodes claim, or that no node can have, is
// nobody's.
func Compile(r Rules, at time.Time) *Compiled {
	c := &Compiled{byAddr: map[packet.Addr]int32{}}
	contested := map[packet.Addr]bool{}
	for _, n := range r.Addresses {
		if a, ok := usable(n); ok && !slices.Contains(c.own, a) {
			c.own = append(c.own, a)
		}
	}
	if r.Self == nil {
		r.Self = &acl.Subject{}
	}
	compiler := newCompiler(c, r.Self, r.Inbound, at)
	subjects := []*acl.Subject{r.Self}
	for _, p := range r.Peers {
		if p.Subject == nil {
			continue
		}
		subjects = append(subjects, p.Subject)
		// The addresses of a peer that is nobody still contest others' claims.
		index := int32(-1)
		if !p.Subject.Nobody(at) && !r.Self.Nobody(at) {
			index = int32(len(c.peers))
			c.peers = append(c.peers, peerRules{
				id:     p.Subject.ID,
				name:   p.Subject.Name,
				until:  min(nanos(p.Subject.Expires), nanos(r.Self.Expires)),
				grants: compiler.grants(p.Subject),
			})
		}
		for _, n := range p.Addresses {
			a, ok := usable(n)
			if !ok {
				continue
			}
			if was, taken := c.byAddr[a]; taken && was != index || slices.Contains(c.own, a) {
				contested[a] = true
			}
			c.byAddr[a] = index
		}
	}
	for a := range contested {
		c.byAddr[a] = -1
		c.contested = append(c.contested, a.Netip())
	}
	slices.SortFunc(c.contested, netip.Addr.Compare)
	maps.DeleteFunc(c.byAddr, func(_ packet.Addr, i int32) bool { return i < 0 })
	c.nextEnd = acl.NextEnd(r.Inbound, subjects, at)
	return c
}

// NextEnd is when these rules should be compiled again because a grant,
// membership or session ends; zero means never.
func (c *Compiled) NextEnd() time.Time { return c.nextEnd }

// Contested are the addresses that several nodes claim, and that are therefore
// nobody's. Correctly signed admissions have none.
func (c *Compiled) Contested() []netip.Addr { return c.contested }

// usable holds an address that a node can have.
func usable(n netip.Addr) (packet.Addr, bool) {
	a, ok := packet.AddrFrom(n)
	n = a.Netip()
	return a, ok && !a.IsMulticast() && !n.IsLoopback() && !n.IsUnspecified()
}

func (c *Compiled) isOwn(a packet.Addr) bool { return slices.Contains(c.own, a) }

// nanos is a limit as the packet path compares it. Zero, and what is beyond the
// year 2262, never ends.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero() || t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	default:
		return t.UnixNano()
	}
}

// A compiler finds the grants of one peer after the other. Peers with the same
// grants share one table.
type compiler struct {
	self     *acl.Subject
	at       time.Time
	probes   [][]acl.Inbound            // one grant each, allowing everything
	allow    [][]acl.Ports              // what it does allow
	rule     []int32                    // its name in Compiled.rules
	everyone []int                      // probes that may select anybody
	byFrom   map[acl.Selector][]int     // the others, by each of their sources
	tables   map[string]*grants         // by the verdicts they were built of
	marked   []bool                     // scratch of candidates
	scratch  struct{ candidates []int } // reused from peer to peer
}

func newCompiler(c *Compiled, self *acl.Subject, inbound []acl.Inbound, at time.Time) *compiler {
	m := &compiler{self: self, at: at, byFrom: map[acl.Selector][]int{}, tables: map[string]*grants{}}
	names := map[string]int32{}
	for _, in := range inbound {
		for _, g := range in.Grants {
			n, ok := names[g.Rule]
			if !ok {
				n = int32(len(c.rules))
				names[g.Rule] = n
				c.rules = append(c.rules, g.Rule)
			}
			i := len(m.probes)
			m.rule = append(m.rule, n)
			m.allow = append(m.allow, g.Allow)
			g.Allow = []acl.Ports{{Range: acl.RangeAll}}
			m.probes = append(m.probes, []acl.Inbound{{To: in.To, Grants: []acl.Grant{g}}})
			anybody := false
			for _, s := range g.From {
				switch s.Kind {
				case acl.KindUser, acl.KindGroup, acl.KindTag, acl.KindNode:
					m.byFrom[s] = append(m.byFrom[s], i)
				default:
					anybody = true
				}
			}
			if anybody {
				m.everyone = append(m.everyone, i)
			}
		}
	}
	m.marked = make([]bool, len(m.probes))
	return m
}

// candidates are the probes that might select the peer, in order: all whose
// sources name something the peer is, and all that need more than a name.
func (m *compiler) candidates(peer *acl.Subject) []int {
	out := m.scratch.candidates[:0]
	add := func(probes []int) {
		for _, i := range probes {
			if !m.marked[i] {
				m.marked[i] = true
				out = append(out, i)
			}
		}
	}
	add(m.everyone)
	if peer.User != nil {
		add(m.byFrom[acl.Selector{Kind: acl.KindUser, Name: peer.User.Email}])
	}
	for _, g := range peer.Groups {
		add(m.byFrom[acl.Selector{Kind: acl.KindGroup, Name: g.Group}])
	}
	for _, t := range peer.Tags {
		add(m.byFrom[acl.Selector{Kind: acl.KindTag, Name: t}])
	}
	add(m.byFrom[acl.Selector{Kind: acl.KindNode, Name: peer.Name}])
	slices.Sort(out)
	for _, i := range out {
		m.marked[i] = false
	}
	m.scratch.candidates = out
	return out
}

// grants is the table of what the peer may reach here. Whether a grant selects
// the two ends, and until when, acl.Judge says: the grant is asked alone, with
// every port allowed.
func (m *compiler) grants(peer *acl.Subject) *grants {
	var verdicts []granted
	var id []byte
	for _, i := range m.candidates(peer) {
		v := acl.Judge(m.probes[i], acl.Request{From: peer, To: m.self, At: m.at})
		if !v.Allowed {
			continue
		}
		verdicts = append(verdicts, granted{Verdict: v, allow: m.allow[i], rule: m.rule[i]})
		id = binary.BigEndian.AppendUint32(id, uint32(i))
		id = binary.BigEndian.AppendUint64(id, uint64(nanos(v.Until)))
	}
	t, ok := m.tables[string(id)]
	if !ok {
		t = newGrants(verdicts)
		m.tables[string(id)] = t
	}
	return t
}
