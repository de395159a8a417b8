package path

import "net/netip"

// A Choice is how data goes to a peer.
type Choice struct {
	// Direct is the peer's endpoint on the direct path; the zero AddrPort when
	// there is none.
	Direct netip.AddrPort
	// Relay says that packets go by relay, beside Direct or instead of it.
	Relay bool
}

// Traffic is what a bind counted for one peer since it was made. Data packets
// are WireGuard's of type 4; its other messages are not counted. What was received
// counts when WireGuard accepted it, so that nobody else can move a path. A packet
// that came by both ways counts for both, though WireGuard drops the second: else
// a direct path that is slower than the relay would look dead while the peer sends
// by both.
type Traffic struct {
	DirectSent, DirectReceived uint64 // data packets by direct paths
	RelaySent, RelayReceived   uint64 // data packets by relay
}
