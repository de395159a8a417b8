// Package kernel is a network device of the kernel as a tun.Device: the node's
// own programs send into it and receive from it.
//
// # What is here and what is not
//
// Writing is wireguard-go's own device, which puts segments of one connection
// together before they enter the kernel. Reading is this package's: it empties
// the device's queue at each wake-up, while wireguard-go's reads once, and then
// pays for every packet the hand-over between its goroutines and a system call
// of its own, which is what makes it collapse at some sixty thousand small
// packets a second.
//
// The package sets the name and the MTU. Addresses, routes and whether the
// device is up belong to package router. Events are none: a device that goes
// down must not end every session, and its MTU is what New set.
//
// # Reading
//
//  1. A wake-up reads until the queue is empty or the caller's batch is full.
//
//  2. Before each packet the kernel writes a header of ten bytes (struct
//     virtio_net_hdr, in the order of the machine):
//
//     flags 1 ‖ gso type 1 ‖ header length 2 ‖ segment size 2 ‖ checksum start 2 ‖ checksum offset 2
//
//  3. A packet with flag 1 has a checksum that covers its pseudo header only;
//     the rest of the sum is made here.
//
//  4. A packet with gso type 1 (TCP over IPv4), 4 (TCP over IPv6) or 5 (UDP) is
//     up to 64 KiB of one flow, to be cut into packets of segment size: lengths,
//     the IPv4 identification, sequence numbers, flags and checksums are each
//     packet's own. What does not fit the caller's batch is kept for the next.
//
//  5. Interrupt makes one Read return without a packet.
//
// The header length is not used: for a forwarded packet the kernel counts
// more than headers into it.
//
// # What is refused
//
// A packet is dropped and counted when it is shorter than its header says,
// when the version of IP does not fit the gso type, when the checksum lies
// outside it, when the segment size is zero, when a TCP header is shorter than
// 20 bytes, or when the gso type is another.
//
// # Privileges
//
// New needs CAP_NET_ADMIN in the network namespace of the calling thread, and
// access to /dev/net/tun; it does not need to be root. The device belongs to
// that namespace, and is gone when Close returns or when the process ends.
// A name that exists is refused, also when it is a TUN device that nobody uses:
// it is not ours.
package kernel

// Config is what a Device is made of.
type Config struct {
	// Name of the device, 1 to 15 bytes. Required.
	Name string

	// MTU is the longest packet, from MinMTU to MaxMTU.
	MTU int
}

const (
	// MinMTU is what IPv6 asks of every link (RFC 8200).
	MinMTU = 1280

	// MaxMTU is the largest MTU of a mesh: what a jumbo frame carries.
	MaxMTU = 9000
)
