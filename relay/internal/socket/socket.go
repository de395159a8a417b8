// Package socket sets what a relay connection wants of its TCP socket.
package socket

import "net"

// unsentBytes is how much the kernel may hold that TCP has not sent yet. More
// would wait where packets can be neither dropped nor reordered: an urgent
// packet would stand behind up to 4 MiB of bulk. 128 KiB is 10 ms of
// 100 Mbit/s: enough that the connection does not idle while a writer wakes.
const unsentBytes = 128 << 10

// Tune prepares a connection to a relay or from a node. Where the system
// cannot do it the connection works, with more delay under load.
func Tune(c net.Conn) {
	if tc, ok := c.(*net.TCPConn); ok {
		tune(tc)
	}
}
