// Package path decides by which path data goes to each peer: by relay, or
// directly to one of the peer's endpoints. It speaks package disco's messages.
//
// # What it is
//
// An [Engine] is a state machine without sockets, clocks, goroutines or locks.
// Its owner tells it what happened, and when; it answers with actions, which the
// owner does in order, from Take; and with the time at which it wants Advance
// called, from Next. The same inputs give the same actions. So whole lives of a
// path are played in tests in no time.
//
// Messages that it is given are authenticated and fresh: sealed by the peer for
// this node, and no replay. Nothing else about them is believed. A peer may list
// whatever endpoints it likes, a relay may delay and withhold, a STUN server may
// tell this node or the peer a wrong address: each costs pings, within bounds,
// and never moves data to an address that was not proved.
//
// # Flow
//
//  1. A peer sleeps until there is traffic (Wake), or a message comes from it.
//     Data goes by relay from the first packet on.
//  2. On waking, Endpoints go to the peer by relay, with Reply, and every
//     candidate that is known is pinged: those of the policy, those remembered.
//  3. On Endpoints, its list replaces the listed candidates. All are pinged at
//     once: both sides do so at about the same time, each opening its own NAT for
//     the other. Endpoints with Reply are answered.
//  4. Pings without an answer are repeated after 0.1, 0.2, 0.4, 0.8, 2, 4 s and so
//     on up to a minute, from the beginning when something happens: new
//     Endpoints on either side, the network changed, a relay says that the peer
//     came. Endpoints are repeated after 1, 2, 4 s and so on up to a minute while
//     there is no direct path, so that both sides ping together again.
//  5. A ping is answered to where it came from. That address becomes a candidate,
//     and if it is not proved it is pinged at once: the peer's NAT is open now.
//     A pong counts only if it carries the id of a ping that is out, and comes
//     from the address that was pinged. From elsewhere it makes that address a
//     candidate and proves nothing.
//  6. A candidate is proved both ways when a ping of this node, as long as data,
//     was answered from there, and a message from there says Proved: the peer's own
//     ping on that path was answered. Whoever becomes sure of the first half pings
//     at once with Proved, so that the other need not wait. Then data goes directly.
//  7. In use, a path is pinged every 3 s while there is traffic. If data was sent
//     directly and none came for 300 ms it is pinged now. If the pong is missing
//     after max(200 ms, RFC 6298's timeout), data goes both ways (Doubted), and by
//     relay alone after 3 s. Proved again, it is used again. It is doubted at once
//     when data that came directly comes by relay instead: the peer doubts it, and
//     a node that only answers would have missed nothing.
//  8. If pings pass and WireGuard's data does not come back for 3 s, data goes
//     both ways (Suspected). What then comes shows the truth: if it comes by relay
//     only, the path is barred for a minute, then two, up to ten.
//  9. If a quarter of the last 20 pings is lost, data goes both ways (Lossy) until
//     it is a tenth.
//  10. Of several candidates the best wins: the round trip, the losses, and a small
//     preference for the own site, then IPv6. Within a second of the upgrade at
//     once, later only when better by a tenth and by 5 ms three times in a row,
//     15 s after the last change.
//  11. 45 s after the last data packet the pings end and data would go both ways
//     (Resting): a NAT may have forgotten the path. After two minutes the peer
//     sleeps. It remembers candidates, and proves them anew when it wakes.
//
// # A stream that goes one way
//
// Silence is normal for it. Its path is pinged every 600 ms, because only pongs
// come back, and suspected once after 3 s, until WireGuard's keepalive, 10 s after
// the first packet, comes back directly and clears it; for the rest of the stream
// 25 s without any keepalive are needed. If not even keepalives come the
// suspicion ends after 15 s for want of evidence, and begins again a minute
// later, then two, up to ten. So a good path carries the stream alone nearly all
// of the time, and a bad one is found.
//
// # Two nodes without traffic
//
// A message wakes for 30 s, and no message lengthens that; a ping by relay wakes
// nobody. So two nodes whose traffic ended fall silent, whatever pings are still
// under way.
//
// # How long a ping is
//
// A path may lose the longest packets, tell nobody, and carry all that are shorter.
// So what proves a path, and what checks the one in use, is as long as the longest
// packet of data. Pongs are short: each side's own pings prove its own direction.
//
// The first pings of an address are short. A short one that is answered proves
// nothing, and has a long one follow at once; after three long ones in vain the
// next is short again. It costs a round trip before data goes directly, while the
// relay carries it. For that, an address that never answers is sent a tenth of the
// bytes, a node that looks for many peers at once does not fill its own line, and
// a path that carries short packets only is known for what it is: narrow, when two
// long pings in a row were in vain after a short one was answered. A narrow path is
// pinged every 10 s at least while data goes by relay, and so found when it becomes
// wider. One in use that becomes narrow loses a heartbeat, and the ping after it.
//
// # Never sent to
//
// Unspecified, multicast, limited broadcast and loopback addresses (loopback only
// in tests), link-local IPv6, port 0, the mesh's own prefixes, the addresses of this
// node's own interfaces. Messages from there are dropped as well. This node's
// reflexive endpoints are not among them: a STUN server that lies would take a
// path away by naming the peer's address.
//
// # Bounds
//
//	pings by UDP, of the node            100 a second, 200 at once
//	of them because of one peer           15 a second, 96 at once, and its path in use
//	  to addresses that never answered     5 a second, 96 at once, beside those
//	of them to one such address            1 a second, 8 at once, and short
//	pongs to one peer                     50 a second, 100 at once
//	Endpoints to one peer                  1 a second, 12 at once
//	new observed addresses of a peer       1 in 5 s, 16 at once
//	candidates of a peer                  48: 8 static, 32 listed, 8 observed
//	  of a peer that sleeps               16: 8 static, 8 others
//	addresses learned for a peer           8
//	pings of a candidate without a pong    8, each for 5 s
//	transitions remembered of a peer      16
//
// When the node's pings are spent, those that check a path in use or complete a
// proof go first, then the first on an address since something happened, then
// repetitions; after three of the second kind a repetition goes, if one waits.
// Within a kind the peers take turns.
//
// # What the owner owes
//
// It calls Advance at Next, tells the bind each Use and Learn before it sends what
// follows, measures its own endpoints (SetSelf) at the start, now and then, after
// Moved, and when a Use takes a direct path back: a NAT that restarted has given
// this node another address, and only a STUN server can say which.
package path
