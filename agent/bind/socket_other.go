//go:build !linux

package bind

import (
	"net"
	"syscall"
)

// Elsewhere a packet is sent and received on its own, and the system chooses the
// local address.

const controlSize = 0

func prepare(_ string, c syscall.RawConn) error { return nil }

func takesTrains(*net.UDPConn) bool { return false }

func trainsRefused(error) bool { return true }

// setMark refuses nothing: there are no marks, and nothing that looks at them.
func setMark(*net.UDPConn, uint32) error { return nil }

func appendSource(oob []byte, _ *local) []byte { return oob }

func appendSegment(oob []byte, _ int) []byte { return oob }

type reader struct{}

func (*reader) init(c *net.UDPConn) error {
	c.SetReadBuffer(socketBuffer) // as much as is allowed
	c.SetWriteBuffer(socketBuffer)
	return nil
}

// receive waits for a packet.
func (s *socket) receive(bufs [][]byte, sizes []int, from []origin) (n int, err error) {
	sizes[0], _, _, from[0].addr, err = s.conn.ReadMsgUDPAddrPort(bufs[0], nil)
	if err != nil {
		return 0, err
	}
	from[0].addr = unmapped(from[0].addr)
	return 1, nil
}
