package path

import (
	"net/netip"
	"time"

	"github.com/writmesh/writ/agent/disco"
	"github.com/writmesh/writ/coordinator/key"
)

// An Action is something that the owner of an Engine does for it: one of Send,
// Use, Learn, Sleep and Ponged. Actions are done in the order in which Take
// returns them.
type Action interface{ action() }

// Send asks for a message to be sealed for the peer and sent.
type Send struct {
	Peer key.NodeID
	To   netip.AddrPort // zero: by relay
	Msg  disco.Message
}

// Use says how data goes to the peer from now on.
type Use struct {
	Peer   key.NodeID
	Choice Choice
	Why    string // in words, for a log
}

// Learn says that packets from Addr are the peer's, or no longer are. An address
// is learned for one peer at a time, and before data may come from it: it
// answered a ping of this node. A peer has at most maxLearned of them.
type Learn struct {
	Peer key.NodeID
	Addr netip.AddrPort
	Gone bool
}

// Sleep says that the engine has no more interest in the peer: the bind tells
// (Wake) when there is traffic again.
type Sleep struct{ Peer key.NodeID }

// Ponged is the answer to a ping that Probe asked for.
type Ponged struct {
	Peer key.NodeID
	From netip.AddrPort // zero: by relay
	RTT  time.Duration
}

func (Send) action()   {}
func (Use) action()    {}
func (Learn) action()  {}
func (Sleep) action()  {}
func (Ponged) action() {}
