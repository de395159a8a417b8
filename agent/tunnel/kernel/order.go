package kernel

import "encoding/binary"

// alone reports whether pkt is a datagram that wireguard-go's device does not
// put together with others, but does not end a train with either: what follows
// it in the same flow would join the train in front of it, and so overtake it.
// That is an empty datagram, a fragment, one with IPv4 options, and one whose
// lengths disagree.
func alone(pkt []byte) bool {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		if pkt[9] != protocolUDP {
			return false
		}
		fragment := binary.BigEndian.Uint16(pkt[6:])&0x3fff != 0
		return fragment || pkt[0]&15 != 5 || len(pkt) <= 20+udpLength ||
			int(binary.BigEndian.Uint16(pkt[2:])) != len(pkt)
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		if pkt[6] != protocolUDP {
			return false
		}
		return len(pkt) <= 40+udpLength || int(binary.BigEndian.Uint16(pkt[4:])) != len(pkt)-40
	}
	return false
}

// trains calls write for the parts of bufs between which nothing may overtake.
func trains(bufs [][]byte, offset int, write func(bufs [][]byte) error) error {
	var first error
	begin := 0
	for i := range bufs {
		if i > begin && len(bufs[i]) > offset && alone(bufs[i][offset:]) {
			if err := write(bufs[begin:i]); err != nil && first == nil {
				first = err
			}
			begin = i
		}
	}
	if err := write(bufs[begin:]); err != nil && first == nil {
		first = err
	}
	return first
}
