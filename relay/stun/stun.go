// Package stun is how a node learns the address that its packets seem to come
// from: the binding request of STUN (RFC 8489), as a relay answers it and as a
// node asks.
//
// A node sends a request from the UDP socket that carries its WireGuard packets.
// The relay answers with the address and port the request came from, which is
// what the node's NAT has made of it; other nodes may reach the node there.
// Nothing is proven by an answer: who can see or guess the transaction id can
// forge one, and a relay can lie. A node therefore takes an answer for an address
// to try, and never sends data to it before a sealed probe was answered there
// (package disco).
//
// # The flow
//
//  1. The node draws a transaction id, remembers it with the address it asks,
//     and sends the request.
//  2. The server answers from the address that was asked, or says nothing.
//  3. The node hands datagrams for which Is is true to ParseResponse, and takes
//     the answer whose transaction id it remembers, from the address it asked.
//  4. Without an answer it asks again, with the same transaction id; it asks one
//     server at most a few times a second.
//
// Servers answer every node, admitted or not, and keep nothing of it. Two
// servers, or two ports of one, tell a node whether its mapping is
// endpoint-independent; filtering is not asked for, and so neither
// CHANGE-REQUEST nor OTHER-ADDRESS (RFC 5780) is served.
//
// # The envelope
//
//	size  field
//	2     type: 0x0001 binding request, 0x0101 binding success response
//	2     length of what follows the header, a multiple of 4
//	4     magic cookie 2112a442
//	12    transaction id
//	      attributes: type 2 · length 2 · value, padded to a multiple of 4
//
// # Messages
//
// Request, 44 bytes: the header and one attribute,
//
//	0x8022 SOFTWARE  20 bytes "writ, room to answer"
//
// whose only purpose is its length: a server sends nothing longer than what it
// was asked with, so that it cannot be used to make more traffic towards a forged
// source than the forger makes himself.
//
// Answer, 32 bytes to an IPv4 address and 44 to an IPv6 one: the header with the
// request's transaction id, and
//
//	0x0020 XOR-MAPPED-ADDRESS  family 2 · port 2, xor 2112 · address 4 or 16, xor cookie and id
//
// Neither has a FINGERPRINT: the first byte, the cookie and the length tell STUN
// from WireGuard and from probes on one socket, and UDP has a checksum. Of what
// other servers answer with, two more attributes are looked at:
//
//	0x8020 XOR-MAPPED-ADDRESS  its number in drafts of RFC 5389
//	0x8028 FINGERPRINT         4 bytes: CRC-32 (IEEE) of all before it, xor 5354554e
//
// These two messages are all of STUN that is spoken, and they are written and read
// here, by the standard library alone: an agent links this package, with the right
// to change the kernel's network, and a general implementation brings clients and
// DTLS along. Tests hold both messages against such an implementation, which may
// take more than is taken here, for listed reasons, and never less.
//
// # What a server drops
//
// Without a word; error responses are never sent. The reasons are counted.
//
//	malformed     not STUN with the magic cookie; a length that is not the datagram's;
//	              an attribute that ends behind it; more than 548 bytes
//	not_binding   another method, an indication, or a response
//	unknown       an attribute that must be understood and is not (all below 0x8000, and 0x8020)
//	short         shorter than the answer. This is so of the 20 bytes of a request
//	              without attributes, which some general STUN clients send.
//	source        from port 0, or no unicast address
//	source_rate   more than 20 a second, and 100 at once, from one source: an IPv4
//	              address, or an IPv6 /64
//	rate          more than 20,000 a second from all
//
// # What a node must reject
//
//   - what Is is not true of: what is shorter than a header, has another length
//     than its header says, or one that is not a multiple of 4, another cookie, or
//     one of the two bits before the type; what is longer than 512 bytes
//   - any type but a binding success response; errors tell nothing of use
//   - attributes that end behind the message, or must be understood and are not
//     known: known are MAPPED-ADDRESS, XOR-MAPPED-ADDRESS and MESSAGE-INTEGRITY,
//     of which the first and the last are not looked at
//   - none or more than one XOR-MAPPED-ADDRESS, its two numbers taken together; one
//     of another family, or of another length than its family's
//   - an address that is unspecified, multicast or broadcast; port 0
//   - a FINGERPRINT that is wrong, not of 4 bytes, or not the last attribute
//
// What the padding of attributes holds is not looked at. An IPv4 address is IPv4,
// also where it was written as IPv6. Whether an address may be used (a private
// one, one of the mesh's own) the node judges itself.
//
// # Limits
//
// The state of a server does not grow: a table of fixed size keeps the rates, one
// number for each of 65536 sets of sources. A loud source quiets those that share
// its number, and cannot know which they are. Forged sources can use up the rate
// of all; what is left of the machine then belongs to the relay's connections.
//
// # Versions
//
//	2026-11  as above
package stun

const (
	// headerSize is the envelope's: type, length, cookie, transaction id.
	headerSize = 20
	// cookie stands in every message since RFC 5389.
	cookie = 0x2112A442

	// RequestSize is the length of a node's request, that of the longest answer.
	RequestSize = 44
	// answerSize4 and answerSize6 are the lengths of answers.
	answerSize4, answerSize6 = 32, 44

	// maxRequest is what RFC 8489 section 6.1 lets a request be where the MTU is
	// not known: 576 bytes with IPv4's and UDP's headers.
	maxRequest = 548
	// maxResponse is longer than what any server in use answers with.
	maxResponse = 512
)

// TxSize is the length of a transaction id.
const TxSize = 12
