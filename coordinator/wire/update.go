package wire

import (
	"fmt"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
)

// Limits of the protocol.
const (
	// MaxMessage is the largest message in bytes. A larger state is sent in
	// several: the revision with what its adoption requires, then peers.
	MaxMessage = 8 << 20

	// MaxPublish is the largest PublishRequest in bytes: the leaves, change list
	// and origins of a whole large policy at once.
	MaxPublish = 64 << 20

	// AliveEvery is how long a stream is silent before it says that it lives.
	AliveEvery = 30 * time.Second

	// SilenceAfter is how long a reader hears nothing before it takes the
	// stream for dead: three times AliveEvery.
	SilenceAfter = 90 * time.Second
)

// ToUpdate is an update as the verifier takes it.
func ToUpdate(m *Update) (netmap.Update, error) {
	u := netmap.Update{Roots: m.GetRoots(), Ended: some(m.GetEnded()), Admission: some(m.GetAdmission())}
	for _, r := range m.GetRevisions() {
		u.Revisions = append(u.Revisions, netmap.Revision{Manifest: r.GetManifest(), Changes: some(r.GetChanges())})
	}
	for _, l := range m.GetLeaves() {
		u.Leaves = append(u.Leaves, netmap.Proved{Name: l.GetName(), Data: l.GetData(), Absent: l.GetAbsent(), Proof: l.GetProof()})
	}
	for _, p := range m.GetPeers() {
		u.Peers = append(u.Peers, netmap.Papers{Admission: p.GetAdmission(), Record: p.GetRecord()})
	}
	for _, b := range m.GetGone() {
		id, err := NodeID(b)
		if err != nil {
			return netmap.Update{}, fmt.Errorf("update: gone: %w", err)
		}
		u.Gone = append(u.Gone, id)
	}
	return u, nil
}

// FromUpdate is the verifier's update on the wire.
func FromUpdate(u netmap.Update) *Update {
	m := &Update{Roots: u.Roots, Ended: u.Ended, Admission: u.Admission}
	for _, r := range u.Revisions {
		m.Revisions = append(m.Revisions, &Revision{Manifest: r.Manifest, Changes: r.Changes})
	}
	for _, l := range u.Leaves {
		m.Leaves = append(m.Leaves, &ProvedLeaf{Name: l.Name, Data: l.Data, Absent: l.Absent, Proof: l.Proof})
	}
	for _, p := range u.Peers {
		m.Peers = append(m.Peers, &Papers{Admission: p.Admission, Record: p.Record})
	}
	for _, id := range u.Gone {
		m.Gone = append(m.Gone, id[:])
	}
	return m
}

// FromHave asks to follow with what a state holds.
func FromHave(h netmap.Have, version string) *FollowRequest {
	r := &FollowRequest{
		RootVersion: h.Root, Epoch: h.Position.Epoch, Seq: h.Position.Seq, EndedNumber: h.Ended,
		AdmissionSerial: h.Admission, Version: version,
	}
	if !h.Manifest.IsZero() {
		r.Manifest = h.Manifest[:]
	}
	for id, s := range h.Peers {
		r.Peers = append(r.Peers, &PeerHave{Node: id[:], AdmissionSerial: s.Admission, RecordSerial: s.Record})
	}
	return r
}

// NodeID reads an id's 32 bytes.
func NodeID(b []byte) (id key.NodeID, err error) {
	if len(b) != len(id) {
		return id, fmt.Errorf("node id of %d bytes, want %d", len(b), len(id))
	}
	return key.NodeID(b), nil
}

// some makes an absent field nil.
func some(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}
