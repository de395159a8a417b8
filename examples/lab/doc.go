// Package lab is a laboratory: the programs of this module, as they are built,
// on networks like people's. It consists of tests, which need root and the build
// tag lab; "make lab" runs them and prints a table of what was expected and what
// happened.
//
// Every scenario builds an Internet of its own out of network namespaces, and
// draws it at the top of its file:
//
//	        the Internet (203.0.113.0/24, 2001:db8::/32; it routes)
//	             │
//	    ┌────────┼──────────┬───────────────┐
//	coordinator  relay    router          router         router: nftables, NAT or
//	                       │ LAN            │ LAN         firewall; drops what it
//	                     alice            ledger         did not ask for
//
// Whatever crosses the Internet or a router is searched for a canary, which is in
// everything that scenarios say over the mesh.
//
// A namespace has no name and no file: it exists as long as the test's process
// or a program in it, so that nothing is left of a laboratory that is killed. The
// interfaces, routes and rules of the machine itself are never touched. Programs
// die with the test.
//
// A line between two namespaces is a veth pair or, where it should have delay,
// loss or a rate, a pair of TAP devices joined by package link.
//
// When a scenario fails, it prints what every agent says of itself, the last
// lines that the programs logged, and what every router counted and translates.
package lab
