// Package disco is the protocol by which two nodes find a direct path to each
// other: what each tells the other about where it may be found, and the probes
// that prove a path. Package path decides what to send and what to make of what
// arrives; this package seals, opens, and refuses.
//
// Two nodes speak it while there is traffic between them, beside WireGuard and
// on the same socket. It carries no traffic itself, and nothing it says gives
// access: a node that believes a false message sends a probe too many, or sends
// WireGuard's packets, sealed for the peer, to where they are lost.
//
// # The flow
//
//  1. A has traffic for B. By relay it sends endpoints, with reply set, and it
//     pings whatever address of B it already knows, by UDP.
//
//  2. B answers by relay with its own endpoints, and pings every address that A
//     listed, by UDP; on receiving them A does the same. The first pings of each
//     open its NAT for the other's.
//
//  3. Who receives a ping answers with a pong by the way it came: from the same
//     socket to the address it came from, or by relay. The pong says where the
//     ping came from.
//
//  4. Who receives a pong with the tx of a ping of its own, from the address it
//     pinged, has proof that the path works both ways for it, and sets proved in
//     what it sends on that path from then on. Data moves there only when both
//     say so.
//
//  5. Pings on the path in use show that it still works. A node whose endpoints
//     change sends endpoints again, by relay.
//
// Endpoints travel by relay only; pings and pongs by both.
//
// # The envelope
//
//	size  field
//	6     magic: 77 72 69 74 64 01, "writd" and 1
//	8     tag
//	24    nonce, random
//	n     sealed by XChaCha20-Poly1305: what follows, and 16 bytes more
//	        1  type
//	        8  boot: when the sender's side of the pair was made, Unix microseconds
//	        8  counter: 1 in the first message of that boot, and one more in each
//	        m  body
//
// Magic and tag are the seal's associated data. Numbers are big endian.
//
// # The keys
//
// For each ordered pair of nodes there are a key and a tag, the 40 bytes of
//
//	HKDF-SHA256(secret: X25519(own WireGuard private key, peer's public key),
//	            salt:   "writ-disco/v1",
//	            info:   network id 32 · sender's node id 32 · receiver's node id 32)
//
// the key first. WireGuard keys stand in records that the nodes sign with their
// identity keys, so that an opened message proves its sender, and a node that
// rotates its WireGuard key changes these with it. The tag lets the receiver of a
// UDP packet from an unknown address find the pair, with no node id in clear. It
// is the same in every message of a direction: see the threats.
//
// # Messages
//
//	type  name       body
//	0x01  ping       tx 12 · flags 1 · padding 0..9132, zeros
//	0x02  pong       tx 12 · flags 1 · src 18
//	0x03  endpoints  flags 1 · mapping 1 · endpoints 0..32 of 19
//
//	flags of ping and pong: 0x01 proved; of endpoints: 0x01 reply
//	endpoint:  kind 1 · address 18
//	address:   IPv6 address 16, or IPv4 as ::ffff:a.b.c.d · port 2
//
// Src is where the ping came from; 18 zeros if it came by relay. Kinds and
// mappings are the constants of this package.
//
// # Replay
//
// Per pair a receiver keeps the highest boot and, of that boot, the highest
// counter and which of the 1024 under it were seen. A lower boot, a counter seen
// and a counter below those are replays. A sender whose clock has gone back since
// its last start is therefore not understood until its clock has caught up, when
// it takes a boot of the new time; so it is with WireGuard's own handshakes. A receiver that starts, or makes the pair
// anew, has seen nothing, and takes once more what was recorded before.
//
// # Limits
//
//   - A packet is at most 9216 bytes, as at the relays: a ping can be as long as
//     the longest packet of data. The shortest message is 73 bytes.
//   - An endpoints message lists at most 32 endpoints: 681 bytes with the envelope,
//     which every path carries unfragmented.
//   - A pong is at most 18 bytes longer than the ping it answers, and only a ping
//     that opened and is new is answered: nothing is gained by reflecting.
//
// # What a decoder must reject
//
// A packet is dropped and counted, by the first Reason that holds:
//
//	not disco  it does not begin with the magic
//	short      fewer than 71 bytes: no room for type, boot and counter
//	long       more than 9216 bytes
//	tag        the tag is not the one of this direction of this pair, as in a
//	           message for another node or network, and in one sent back to its
//	           sender
//	forged     the seal does not open: a bit is wrong, or another key made it
//	malformed  boot or counter is 0
//	replay     see above
//	type       a type not in the table
//	malformed  a body whose length its type does not allow; an unknown flag, kind or
//	           mapping; padding that is not zero; an address that is unspecified, or
//	           a port 0, except in a src of 18 zeros
//
// A decoder keeps addresses that should not be pinged (multicast, loopback, the
// mesh's own): package path has them, and says why it leaves them.
//
// # Threats
//
//   - Anybody can send what begins with the magic. It costs a look at the tag, in a
//     table; who has seen a tag can make the receiver try a seal. Nothing is
//     answered.
//   - Who is on the path can drop, delay, repeat and redirect packets. A message
//     that it sends on, from its own address, is taken: a ping shows the receiver
//     a false address, which costs pings; a path through the attacker may be proved
//     and used, and carries WireGuard's packets as any router on the way does. It
//     sees tags, and so which packets belong to the same ordered pair, also after
//     a node has moved to another network; so does who sees the relay's side.
//   - A relay can drop, delay and repeat. It sees tags beside the node ids it knows.
//     It cannot read endpoints, nor say any in another's name.
//   - A peer can lie about its endpoints and so make a node send pings to addresses
//     of its choice, within package path's budget. It can prove only a path on
//     which it sees the pings, and what goes there is sealed for it.
//   - Who has stolen a node's WireGuard key can read and write its messages to and
//     from every peer, old ones too: keys are static, there is no forward secrecy.
//     What that tells are addresses, and when.
//
// # Versions
//
// The last byte of the magic. A node that does not know a version drops it as
// not disco. Types, kinds, mappings and flags are appended to, never used again:
// an old node drops a message that has one it does not know, so a new one may be
// sent only to peers that are known to understand it.
//
//	1  2026-11  as above
package disco

import "github.com/writmesh/writ/relay/frame"

const (
	// Magic begins every packet. Relays carry what begins with it.
	Magic = frame.DiscoMagic

	// MaxPacket bounds a packet: what a relay carries, so that whatever passes
	// directly passes there too.
	MaxPacket = frame.MaxPacket
	// MinPacket is an envelope with an empty body.
	MinPacket = headSize + nonceSize + innerSize + sealSize

	// MaxEndpoints is how many endpoints one message may carry. A node with more
	// interfaces, NATs and families than that sends the best.
	MaxEndpoints = 32
	// MaxPadding makes the longest ping as long as the longest packet.
	MaxPadding = MaxPacket - MinPacket - pingSize
)

const (
	headSize  = len(Magic) + TagSize // the associated data
	nonceSize = 24
	innerSize = 1 + 8 + 8 // type, boot, counter
	sealSize  = 16

	pingSize      = 12 + 1 // without padding
	pongSize      = 12 + 1 + addrSize
	endpointsSize = 1 + 1 // with an empty list
	endpointSize  = 1 + addrSize
	addrSize      = 16 + 2
)
