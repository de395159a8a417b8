package bind

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// socketBuffer is what the kernel may hold of packets that wait, each way:
	// 7 MiB are 50 ms at 1 Gbit/s, longer than a busy machine leaves a goroutine
	// waiting. A system that allows less gives less.
	socketBuffer = 7 << 20

	// maxDatagram is the longest UDP payload in IPv4, and a train's too:
	// 65535 bytes without the headers of IP (20) and UDP (8).
	maxDatagram = 65535 - 20 - 8

	// trainLength is how many packets go to the kernel as one train: what every
	// kernel takes that knows of trains (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
	trainLength = 64
)

// A local is the address and the interface of this host that a packet came to,
// and that an answer leaves from. It never changes.
type local struct {
	addr  netip.Addr
	index uint32 // of the interface
}

// An origin is where a packet came from, and where to.
type origin struct {
	addr netip.AddrPort
	to   local // the zero local: the system does not say
}

// A socket is a UDP socket of one family. Any number of goroutines send; one
// receives.
type socket struct {
	conn   *net.UDPConn
	write  func(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	trains atomic.Bool // the kernel takes trains to send (UDP_SEGMENT)
	reader reader
}

// listen opens a socket at port, or at a free one if port is zero.
func listen(network string, port uint16) (*socket, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error { return prepare(network, c) }}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s := &socket{conn: pc.(*net.UDPConn)}
	s.write = s.conn.WriteMsgUDPAddrPort
	s.trains.Store(takesTrains(s.conn))
	if err := s.reader.init(s.conn); err != nil {
		pc.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) port() uint16 {
	return s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// A train is packets on their way to the kernel in one call: all of one length,
// but the last, which may be shorter.
type train struct {
	buf []byte
	oob []byte
}

var trains = sync.Pool{New: func() any {
	return &train{buf: make([]byte, 0, maxDatagram), oob: make([]byte, 0, controlSize)}
}}

// send sends packets from a local address; nil: the kernel chooses. An error
// means that some of them may not have been sent.
func (s *socket) send(bufs [][]byte, to netip.AddrPort, from *local) error {
	t := trains.Get().(*train)
	defer trains.Put(t)
	for len(bufs) > 0 {
		n := 1
		if s.trains.Load() {
			n = t.couple(bufs)
		}
		if n > 1 {
			t.oob = appendSegment(appendSource(t.oob[:0], from), len(bufs[0]))
			_, _, err := s.write(t.buf, t.oob, to)
			if err == nil {
				bufs = bufs[n:]
				continue
			}
			// The interface cannot checksum what it would have to cut apart, or
			// the packets are longer than its MTU. One by one they may do.
			if trainsRefused(err) {
				s.trains.Store(false)
			}
		}
		t.oob = appendSource(t.oob[:0], from)
		for _, buf := range bufs[:n] {
			if _, _, err := s.write(buf, t.oob, to); err != nil {
				return err
			}
		}
		bufs = bufs[n:]
	}
	return nil
}

// couple copies as many of the first packets as make a train. A train of one is
// not copied.
func (t *train) couple(bufs [][]byte) (n int) {
	length, total := len(bufs[0]), 0
	for n < len(bufs) && n < trainLength {
		size := len(bufs[n])
		if size > length || size == 0 || total+size > maxDatagram {
			break
		}
		total += size
		n++
		if size < length {
			break
		}
	}
	if n < 2 {
		return 1
	}
	t.buf = t.buf[:0]
	for _, buf := range bufs[:n] {
		t.buf = append(t.buf, buf...)
	}
	return n
}
