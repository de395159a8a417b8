package netmap

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
)

// papers takes up peers' papers.
func (c *candidate) papers(docs []Papers) {
	for _, d := range docs {
		c.peer(d)
	}
}

func (c *candidate) peer(d Papers) {
	if c.knows(d) {
		return
	}
	a, err := papers.OpenAdmission(d.Admission, c.Root())
	if err != nil {
		c.refuse(Invalid, "admission", d.Admission, err)
		return
	}
	id := a.Identity.NodeID()
	if id == c.self {
		return
	}
	name := fmt.Sprintf("of %s (%s)", a.Name, id.Short())
	if c.future("admission "+name, d.Admission, a.Issued) {
		return
	}
	next := &peer{admission: a, admissionDoc: d.Admission, under: c.Root().Version}
	old := c.peers[id]
	before, met := c.gone[id]
	if old != nil {
		before, met = old.seen(), true
	}
	switch {
	case !met:
	case a.Serial < before.Admission:
		c.refuse(Rollback, "admission "+name, d.Admission, fmt.Errorf("serial %d, %d is held", a.Serial, before.Admission))
		return
	case a.Serial == before.Admission && a.Hash() != before.AdmissionHash:
		c.refuse(Equivocation, "admission "+name, d.Admission, fmt.Errorf("two of serial %d", a.Serial))
		return
	case lifeOf(a) != before.Life:
		c.refuse(Conflict, "admission "+name, d.Admission, errors.New("another name, address or principal than before"))
		return
	}
	if _, out := c.out(id); out {
		c.refuse(Out, "admission "+name, d.Admission, ErrEnded)
		return
	}
	if !a.Expires.IsZero() && !c.At(c.now).Before(a.Expires) {
		c.refuse(Expired, "admission "+name, d.Admission, ErrExpired)
		return
	}
	rec, err := papers.OpenRecord(d.Record, c.network, a.Identity)
	switch {
	case err != nil:
		c.refuse(Invalid, "record "+name, d.Record, err)
		return
	case c.future("record "+name, d.Record, rec.Issued):
		return
	case met && rec.Serial < before.Record:
		c.refuse(Rollback, "record "+name, d.Record, fmt.Errorf("serial %d, %d is held", rec.Serial, before.Record))
		return
	case met && rec.Serial == before.Record && rec.Hash() != before.RecordHash:
		c.refuse(Equivocation, "record "+name, d.Record, fmt.Errorf("two of serial %d", rec.Serial))
		return
	case old != nil && rec.Serial == old.record.Serial:
		next.record, next.recordDoc = old.record, old.recordDoc
	case !c.At(c.now).Before(rec.Expires):
		c.refuse(Expired, "record "+name, d.Record, fmt.Errorf("ended %s", rec.Expires.Format(time.RFC3339)))
		return
	default:
		next.record, next.recordDoc = rec, d.Record
	}
	if old != nil && a.Serial == old.admission.Serial && next.record == old.record && old.under >= next.under {
		return
	}
	if old == nil && len(c.peers) >= maxHeldPeers {
		c.refuse(Invalid, "papers "+name, d.Admission, fmt.Errorf("%d nodes are held already", maxHeldPeers))
		return
	}
	if err := c.conflict(next); err != nil {
		c.refuse(Conflict, "papers "+name, d.Admission, err)
		return
	}
	c.saw(a.Issued)
	c.peers[id] = next
	delete(c.gone, id)
	c.changed = true
}

// knows reports whether papers are, byte for byte, those held of a peer that is
// neither out nor expired: they were verified when they were taken up.
func (c *candidate) knows(d Papers) bool {
	if c.known == nil {
		c.known = make(map[uint64]*peer, len(c.peers))
		for _, p := range c.peers {
			c.known[maphash.Bytes(hintSeed, p.admissionDoc)] = p
		}
	}
	p := c.known[maphash.Bytes(hintSeed, d.Admission)]
	if p == nil || !bytes.Equal(p.admissionDoc, d.Admission) || !bytes.Equal(p.recordDoc, d.Record) {
		return false
	}
	id := p.record.Node
	held := c.peers[id] // not what an earlier document of this update replaced
	_, out := c.out(id)
	ended := !p.admission.Expires.IsZero() && !c.At(c.now).Before(p.admission.Expires)
	return held != nil && held.admission == p.admission && held.record == p.record && held.under >= c.Root().Version && !out && !ended
}

var hintSeed = maphash.MakeSeed()

// conflict finds a live node that already has what p claims. The one held first
// keeps it: a name, address or key passes on only when its holder has ended.
func (c *candidate) conflict(p *peer) error {
	if a := c.admission; a != nil {
		for _, claim := range claims(p) {
			if claim == "name "+a.Name || claim == "address "+a.IPv4.String() || claim == "address "+a.IPv6.String() {
				return fmt.Errorf("claims this node's %s", claim)
			}
		}
	}
	if c.claimed == nil {
		c.claimed = make(map[string]key.NodeID, 4*len(c.peers))
		for id, q := range c.peers {
			for _, claim := range claims(q) {
				c.claimed[claim] = id
			}
		}
	}
	id := p.admission.Identity.NodeID()
	var over []key.NodeID // holders that have ended
	for _, claim := range claims(p) {
		other, ok := c.claimed[claim]
		q := c.peers[other]
		if !ok || other == id || q == nil || !slices.Contains(claims(q), claim) {
			continue
		}
		_, out := c.out(other)
		if live := !out && (q.admission.Expires.IsZero() || c.At(c.now).Before(q.admission.Expires)); live {
			return fmt.Errorf("claims the %s of %s (%s)", claim, q.admission.Name, other.Short())
		}
		if !slices.Contains(over, other) {
			over = append(over, other)
		}
	}
	for _, other := range over {
		if err := c.forget(other); err != nil {
			return err
		}
	}
	for _, claim := range claims(p) {
		c.claimed[claim] = id
	}
	return nil
}

// claims are what no two live nodes may share.
func claims(p *peer) []string {
	return []string{
		"name " + p.admission.Name,
		"address " + p.admission.IPv4.String(),
		"address " + p.admission.IPv6.String(),
		"WireGuard key " + p.record.WG.String(),
	}
}
