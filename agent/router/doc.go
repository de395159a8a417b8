// Package router makes the kernel of a Linux machine send a node's packets to
// its peers through the mesh's network interface and nowhere else, and accept
// packets of the mesh from that interface and from nowhere else.
//
// It is used by an agent that runs on a kernel interface, which package
// tunnel/kernel makes. It speaks netlink only: it runs no program, writes no
// sysctl and needs CAP_NET_ADMIN alone.
//
// # Flow
//
//  1. New looks whether this network namespace is free: another agent whose
//     interface still stands is a refusal, to Set and Cleanup too. An agent is
//     known by the alternative name of its interface, which one interface can
//     have, and which goes with it. What an agent left that was killed is no
//     obstacle; it is taken over.
//  2. Set makes the kernel hold exactly a State: the node's addresses, its peers'
//     addresses, the network's own IPv6 prefix, the MTU. It is called with every
//     change of the netmap and whenever Watch says that something of ours is gone,
//     and changes only what differs.
//  3. Watch tells of changes in the machine's own network (for the choice of
//     paths) and of losses of ours (for the next Set).
//  4. Close takes back what makes the node a node. Cleanup takes back everything.
//
// # What is ours
//
//	what                   how it is recognised
//	routes                 in table Table, of protocol Protocol
//	rules                  of protocol Protocol, at priority Priority or to table Table
//	addresses              those of the interface, which is ours alone
//	alternative name       "writ-agent-running" of the interface
//	nftables               everything in the table "inet writ"
//
// Nothing else is ever changed or removed. What others have put where ours
// should be is left and told by Warnings.
//
// # Routes
//
// For each family one rule, from all to all, looks in table Table before it looks
// in the tables of the machine and of other networks. The table holds, for each
// address of a peer:
//
//	unicast      <address>  dev <interface>  src <own address>  metric 100
//	unreachable  <address>                                      metric 8700
//
// The kernel drops the first when the interface goes down or away, as it does
// when the agent is killed. The second then answers: a program that sends to a
// peer is told EHOSTUNREACH, and its packet does not leave in clear by the
// default route. For the network's own IPv6 prefix one unreachable route stands
// for all; it is this network's alone. The IPv4 prefix is not: 100.64.0.0/10 is
// used by many, so only the addresses of peers are taken.
//
// An address that was a peer's and is no longer keeps its unreachable route:
// programs go on sending to it (a TCP retransmission for a quarter of an hour, a
// log forwarder for ever), and what was for the mesh must not continue in clear.
// Up to maxDeparted such routes are kept, until Cleanup or the machine restarts.
//
// # Packet filter
//
// Linux accepts a packet to any address it has, on whatever interface it comes,
// so a neighbour on the local network could reach the node's mesh addresses past
// WireGuard and its filter. The table "inet writ" drops, and counts:
//
//	hook         priority  not to/from           dropped
//	prerouting   raw       interface, loopback   source in the mesh (Drops.Source)
//	prerouting   raw       interface, loopback   destination an own address (Drops.Destination)
//	postrouting  300       interface, loopback   destination in the mesh (Drops.Clear)
//
// The last is needed beside the routes: to a program that binds its socket to an
// interface, IPv4 takes an unreachable address for one on that link.
//
// In the mesh are the addresses of peers, the node's own, and the network's own
// IPv6 prefix. The table is made in one transaction before the node has an
// address, and replaced in one transaction: at no instant is there none. A killed
// agent's table stays and goes on dropping; it harms nothing else, for nothing
// else has those addresses. Close removes it: on a node that was stopped in good
// order such a socket, bound to an interface, can send to a peer's IPv4 address
// on that interface's link.
//
// Where the kernel has no nftables, New refuses: the node would be open to its
// neighbours. Config.WithoutNftables accepts that, and Warnings says so.
//
// # Limits
//
// One agent with a kernel interface for each network namespace. At most MaxPeers
// addresses of peers. IPv6 switched off in the kernel, in the namespace or for the
// interface is not an error: the node then is one of IPv4 alone, and Warnings
// says so.
//
// Other systems than Linux compile, and New refuses.
package router
