package netmap

import (
	"encoding/binary"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
)

// full has as many nodes as a state holds, each under an id of its own.
func full[T any](v T) map[key.NodeID]T {
	m := make(map[key.NodeID]T, maxHeldPeers)
	for i := range maxHeldPeers {
		var id key.NodeID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		m[id] = v
	}
	return m
}

// What is remembered of nodes that are gone is bounded, and what is remembered
// is not traded for what is new: then a peer is not let go.
func TestMemoryOfNodesThatAreGoneIsBounded(t *testing.T) {
	id := key.NodeID{0: 0xff}
	c := &candidate{State: New(key.NetworkID{}, key.NodeID{})}
	c.gone = full(seen{Admission: 7})
	c.peers[id] = &peer{}
	if err := c.forget(id); err == nil || len(c.gone) != maxHeldPeers || c.peers[id] == nil || c.changed {
		t.Errorf("got %v with %d nodes remembered, want an error and %d", err, len(c.gone), maxHeldPeers)
	}
}
