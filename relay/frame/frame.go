// Package frame is the relay protocol, writ-relay/1: how two nodes that cannot
// meet exchange packets through a relay both can reach.
//
// A relay forwards packets that are already sealed (WireGuard's, and the
// probes of the path engine) between the nodes connected to it. It sees who is
// connected, who sends to whom, how much and when. It can drop, delay, repeat
// and reorder packets, as any network can; it cannot read or forge them.
//
// # The flow
//
//  1. The node connects by TCP and TLS 1.3. Both ends show a certificate of
//     their identity key (package tlskey); the node knows the relay's key from
//     the signed relays leaf and speaks to no other.
//
//  2. The node asks for the protocol with one HTTP/1.1 request,
//
//     GET /relay HTTP/1.1
//     Host: relay.example
//     Connection: Upgrade
//     Upgrade: writ-relay/1
//
//     and may send its hello frame behind it without waiting, which saves a
//     round trip. The relay answers "101 Switching Protocols" with the same
//     two headers; any other answer ends the connection. From here on each
//     direction is a sequence of frames and nothing else.
//
//  3. The node's first frame is hello, with its papers. The relay checks them
//     against the identity key that TLS has proven and answers welcome, or
//     refuse and the end.
//
//  4. The node sends send frames; the relay hands each to the destination as
//     a recv frame whose source is the sender's proven identity: no frame from
//     a node carries a source. Packets to one destination may be dropped, the
//     oldest first, when it reads too slowly.
//
//  5. The node pings; the relay answers. The relay never pings.
//
//  6. When its papers are renewed the node sends them, and the relay answers
//     as it answers hello; when the relay learns that they have ended it sends
//     refuse and closes. Before a restart the relay sends drain, and the node
//     connects afresh.
//
// # The envelope
//
//	size  field
//	1     type
//	4     length of the body, big endian
//	n     body
//
// # Frames
//
// Numbers are big endian. Direction: N is the node, R the relay.
//
//	type  name     dir   body
//	0x01  hello    N→R   version 2 · papers 1..65536
//	0x02  papers   N→R   papers 1..65536
//	0x03  send     N→R   destination node id 32 · packet 1..9216
//	0x04  ping     N→R   token 8, repeated in the pong
//	0x21  welcome  R→N   version 2 · end of the admission, Unix seconds 8
//	0x22  refuse   R→N   kind 1 · text 0..255, printable UTF-8
//	0x23  recv     R→N   source node id 32 · packet 1..9216
//	0x24  gone     R→N   node id 32: a packet to it was dropped, it is not here
//	0x25  drain    R→N   after 4 · spread 4, milliseconds, each at most an hour
//	0x26  pong     R→N   token 8
//	0xa7  here     R→N   node id 32: a node that the receiver was sending to has come
//
// A type with the bit 0x80 set may be skipped by a receiver that does not know
// it. Retired numbers: none.
//
// Papers are opaque here (package papers reads them). A node sends new papers
// at most once a second on average. Gone is sent at most three times a second
// to one node, so that it cannot be used to make traffic. After drain the node
// leaves at a moment chosen evenly between after and after+spread, and
// connects again at once, here or elsewhere.
//
// Here says that the node named has connected to this relay, and that a packet
// of the receiver's to it was dropped less than 30 seconds ago because it was
// not here, whether or not a gone told so. It lets the receiver repeat at once
// what it would otherwise repeat after seconds. Each such packet, or run of
// them, earns at most one here. The relay remembers the 64 nodes a client was
// last without, forgets them when the client leaves, and sends at most 64 at
// once and 20 a second to one client; it may forget more when many clients
// miss many nodes. A client that needs the other therefore goes on trying on
// its own, and one that knows no here loses only time.
//
// # Packets
//
// The payload of send is one packet of a kind that a relay carries; anything
// else is dropped and counted, so that a relay is no tunnel for other traffic:
//
//	kind        first bytes            length
//	initiation  01 00 00 00            148
//	response    02 00 00 00            92
//	cookie      03 00 00 00            64
//	transport   04 00 00 00            32 or more
//	disco       77 72 69 74 64 01      7 or more ("writd", 1; reserved for probes)
//
// # Limits
//
//   - A packet is at most 9216 bytes: the largest mesh MTU, 9000, and
//     WireGuard's 32 bytes around it, with its padding.
//   - Papers are at most 64 KiB. No body is longer than 2 + 65536 bytes.
//   - Each phase before welcome (TLS, the request, hello) takes at most five
//     seconds.
//   - A node from which nothing is heard for 100 seconds is gone. It pings
//     when it has heard nothing for 30 seconds, or for one second since it
//     sent a packet; unanswered for 5 or 2 seconds more, the relay is dead.
//     Whatever it hears, it pings every 30 seconds at least.
//
// # What a decoder must reject
//
// By closing the connection, the relay after refuse with kind protocol:
//
//   - a length outside the bounds of its type, before reading the body
//   - a type it does not know, without 0x80; with it, a length above 65538
//   - a frame of the other direction
//   - a first frame that is not hello; a second hello
//   - a version of 0
//   - a refusal of kind 0, or a text that is not printable UTF-8
//   - a welcome that ends after the year 9999
//   - a drain with a duration above an hour
//   - the end of the stream inside a frame
//
// # Versions
//
// The version in hello and welcome is the newest that the sender speaks; both
// then speak the lower one. What may be skipped needs no new version.
//
//	1  2026-11  as above; here was added later, and may be skipped
package frame

import "fmt"

const (
	// Protocol is the token of the Upgrade header.
	Protocol = "writ-relay/1"
	// Path is the request target.
	Path = "/relay"
	// Version is the newest version this package speaks.
	Version = 1

	// HeaderSize is the envelope's: type and length.
	HeaderSize = 5
	// NodeSize is the length of a node id.
	NodeSize = 32
	// MaxPapers bounds papers: an admission is under 2 KiB, leaves with proofs
	// of a node in a hundred groups under 40 KiB.
	MaxPapers = 64 << 10
	// MaxPacket bounds a packet: MTU 9000, 32 bytes of WireGuard, padding to
	// 16, and room for a probe that measures the path's MTU.
	MaxPacket = 9216
	// MaxText bounds the text of a refusal, in bytes.
	MaxText = 255
	// MaxBody bounds every body, also of frames that are skipped.
	MaxBody = 2 + MaxPapers
)

// A Type is the first byte of a frame.
type Type byte

const (
	Hello   Type = 0x01 // version, papers; the node's first frame
	Papers  Type = 0x02 // renewed papers
	Send    Type = 0x03 // destination, packet
	Ping    Type = 0x04 // token
	Welcome Type = 0x21 // version, end of the admission
	Refuse  Type = 0x22 // kind, text; the relay's last frame
	Recv    Type = 0x23 // source, packet
	Gone    Type = 0x24 // node id
	Drain   Type = 0x25 // after, spread
	Pong    Type = 0x26 // token
	Here    Type = 0xa7 // node id; the first that older nodes skip
)

// ignorable marks a type that a receiver may skip if it does not know it.
const ignorable = 0x80

func (t Type) String() string {
	if r, ok := rules(t); ok {
		return r.name
	}
	return fmt.Sprintf("0x%02x", byte(t))
}

// A Side is one end of a connection.
type Side byte

const (
	Node  Side = 1 // the client, which sends hello
	Relay Side = 2 // the server, which answers welcome
)

func (s Side) String() string {
	if s == Node {
		return "node"
	}
	return "relay"
}

// A rule is what the envelope of one type must satisfy.
type rule struct {
	name     string
	from     Side
	min, max uint32 // length of the body
}

func rules(t Type) (rule, bool) {
	switch t {
	case Send:
		return rule{"send", Node, NodeSize + 1, NodeSize + MaxPacket}, true
	case Recv:
		return rule{"recv", Relay, NodeSize + 1, NodeSize + MaxPacket}, true
	case Hello:
		return rule{"hello", Node, 3, 2 + MaxPapers}, true
	case Papers:
		return rule{"papers", Node, 1, MaxPapers}, true
	case Ping:
		return rule{"ping", Node, 8, 8}, true
	case Welcome:
		return rule{"welcome", Relay, 10, 10}, true
	case Refuse:
		return rule{"refuse", Relay, 1, 1 + MaxText}, true
	case Gone:
		return rule{"gone", Relay, NodeSize, NodeSize}, true
	case Drain:
		return rule{"drain", Relay, 8, 8}, true
	case Pong:
		return rule{"pong", Relay, 8, 8}, true
	case Here:
		return rule{"here", Relay, NodeSize, NodeSize}, true
	}
	return rule{}, false
}

// A Defect is a violation of this protocol by the other end. The connection
// ends with it.
type Defect struct {
	Type   Type
	Reason string
}

func (d *Defect) Error() string { return fmt.Sprintf("%v frame: %s", d.Type, d.Reason) }

func defect(t Type, format string, args ...any) error {
	return &Defect{t, fmt.Sprintf(format, args...)}
}
