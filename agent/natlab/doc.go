// Package natlab is an Internet in memory, for tests: hosts, links that delay
// and lose, and NATs that behave as RFC 4787 describes. It carries UDP and
// nothing else.
//
// It exists so that a path engine meets every pair of NATs, and minutes of
// silence, in milliseconds and without privileges. Nothing of it belongs in a
// program.
//
// # A topology
//
// A [Net] holds networks, hosts and routers. A network is a segment on which
// everybody hears everybody, an interface joins a node to it by a link of its
// own, and a router stands between an inner network and an outer one:
//
//	                      the Internet, 0.0.0.0/0 ::/0
//	  ───┬───────────────────┬─────────────────────────────┬───
//	     │ link              │ 198.51.100.1                │ 203.0.113.1
//	     │              ┌────┴────┐                   ┌────┴────┐
//	┌────┴───┐          │ router  │ NAT               │  host   │
//	│  host  │          └────┬────┘                   └─────────┘
//	└────────┘               │ 192.168.1.1               server
//	 192.0.2.7          ─────┴──┬──────────── 192.168.1.0/24
//	                            │ 192.168.1.2
//	                       ┌────┴────┐
//	                       │  host   │
//	                       └─────────┘
//
// The right half of the drawing is:
//
//	n := natlab.New(seed)
//	defer n.Close()
//	internet := n.Internet()
//	home := n.Network("home", netip.MustParsePrefix("192.168.1.0/24"))
//	n.Router("gateway", natlab.Between{
//		Inner: home, InnerAddrs: addrs("192.168.1.1"),
//		Outer: internet, OuterAddrs: addrs("198.51.100.1"),
//		V4: &natlab.NAT{Filtering: natlab.AddressAndPortDependent, Hairpin: true},
//	})
//	alice := n.Host("alice")
//	alice.Attach(home, natlab.Link{Delay: 5 * time.Millisecond}, addrs("192.168.1.2")...)
//	server := n.Host("server")
//	server.Attach(internet, natlab.Link{}, addrs("203.0.113.1")...)
//	conn, err := alice.ListenUDP(0)
//
// A router whose outer network is another router's inner one makes a double
// NAT. A router without a NAT for a family forwards that family as it is, and
// the networks outside know the way to the prefixes behind it; a [NAT] that is
// Transparent is a stateful firewall. [Kinds] lists NATs by name, [Pair] builds
// the world in which two of them meet, and [Expected] says what must come of it.
//
// # The life of a packet
//
//  1. A host chooses the interface: the one whose network has the longest prefix
//     that holds the destination, else the first whose network has a gateway. If
//     there is none, or the packet is over the MTU of that link, the send fails.
//  2. The packet passes the sender's link, outwards.
//  3. The network finds the receiver: the interface that has the destination's
//     address, else the router behind which it lies, else the gateway.
//  4. The packet passes the receiver's link, inwards.
//  5. A host hands it to the socket; a router translates and judges it, and goes
//     on at 2 with its other interface.
//
// Wherever a packet ends without being received, that is counted with the place
// and the [Reason], and it stands in [Net.Log].
//
// There is no ICMP: whoever sends too much or to nobody hears nothing of it.
// Nothing is fragmented, and addresses are given, never asked for.
// [Interface.SetUp], [Interface.SetAddrs], [Interface.SetBlocked], [Net.Cut] and
// [Router.Reboot] change the world while it runs.
//
// # Time and chance
//
// Everything is done with package time, so in a bubble of testing/synctest
// minutes pass at once. A Net and its sockets belong to the bubble in which they
// were made; after [Net.Close] no goroutine and no timer of theirs is left.
//
// Every link direction and every NAT draws from a random stream of its own, made
// of the seed and its name, and packets that arrive at one instant are taken in
// an order that does not depend on who was scheduled first. So one seed gives
// one world, as far as the hosts themselves send in one order: when goroutines
// race for one host's socket at one instant, the scheduler decides.
package natlab
