package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/writmesh/writ/coordinator/key"
)

// portTries is how often a port that is free for both families is looked for.
// Where one socket found a free port, the other may not; that happens as often
// as ports are in use, so that a hundred in a row are no accident.
const portTries = 100

// udp is a Bind's sockets: one for each family of addresses that the system has,
// at the same port.
//
// They are its own and not those of wireguard-go's StdNetBind, because that one
// forgets the local address of every packet once the kernel joins packets into
// trains (UDP_GRO), gives up a socket after ten trains that are longer than it
// can take apart, and allocates for each packet.
type udp struct {
	// set at construction
	enabled bool
	fixed   uint16 // Config.Port
	control func(src netip.AddrPort, pkt []byte)
	failed  func(id key.NodeID, to netip.AddrPort, err error)
	listen  func(network string, port uint16) (*socket, error)

	// guarded by Bind.life
	opened bool   // there were sockets at least once
	last   uint16 // the port they had
	err    error  // why there are none in this opening

	sockets atomic.Pointer[pair] // nil: closed. Written with Bind.life held

	controls, strangers, unasked, foreign atomic.Uint64
}

// A pair is the sockets of one opening.
type pair struct {
	v4, v6 *socket // nil: the system has no such addresses
	port   uint16
}

func (u *udp) init(cfg Config) {
	u.enabled, u.fixed, u.control, u.failed, u.listen = cfg.UDP, cfg.Port, cfg.Control, cfg.Failed, listen
}

// open opens the sockets at the fixed port; or at wish, or the one they had, if
// it is free; or at any. Bind.life is held.
func (u *udp) open(wish uint16) (*pair, error) {
	if u.last != 0 {
		wish = u.last
	}
	var p *pair
	var err error
	switch {
	case u.fixed != 0:
		p, err = u.openAt(u.fixed)
	case wish != 0:
		if p, err = u.openAt(wish); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		fallthrough
	default:
		for range portTries {
			if p, err = u.openAt(0); !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open sockets: %w", err)
	}
	u.opened, u.last, u.err = true, p.port, nil
	u.sockets.Store(p)
	return p, nil
}

// openAt opens both sockets at port, or at a port that was free for the first.
func (u *udp) openAt(port uint16) (*pair, error) {
	p := &pair{port: port}
	var err error
	p.v4, err = u.listen("udp4", port)
	switch {
	case err == nil:
		p.port = p.v4.port()
	case !errors.Is(err, syscall.EAFNOSUPPORT):
		return nil, fmt.Errorf("IPv4, port %d: %w", port, err)
	}
	p.v6, err = u.listen("udp6", p.port)
	switch {
	case err == nil:
		p.port = p.v6.port()
	case !errors.Is(err, syscall.EAFNOSUPPORT):
		p.close()
		return nil, fmt.Errorf("IPv6, port %d: %w", p.port, err)
	case p.v4 == nil:
		return nil, fmt.Errorf("neither IPv4 nor IPv6: %w", err)
	}
	return p, nil
}

// each is the sockets that there are.
func (p *pair) each(yield func(*socket) bool) {
	for _, s := range []*socket{p.v4, p.v6} {
		if s != nil && !yield(s) {
			return
		}
	}
}

func (p *pair) close() error {
	var errs []error
	for s := range p.each {
		errs = append(errs, s.conn.Close())
	}
	return errors.Join(errs...)
}

// close closes the sockets, if there are any. Bind.life is held.
func (u *udp) close() error {
	u.err = nil
	if p := u.sockets.Swap(nil); p != nil {
		return p.close()
	}
	return nil
}

// setMark sets the mark of the sockets, if there are any. Bind.life is held.
func (u *udp) setMark(mark uint32) error {
	p := u.sockets.Load()
	if p == nil {
		return nil
	}
	for s := range p.each {
		if err := setMark(s.conn, mark); err != nil {
			return fmt.Errorf("set mark %#x: %w", mark, err)
		}
	}
	return nil
}

func (u *udp) port() uint16 {
	if p := u.sockets.Load(); p != nil {
		return p.port
	}
	return 0
}

// send gives packets to the socket of to's family.
func (u *udp) send(to *remote, bufs [][]byte) error {
	p := u.sockets.Load()
	if p == nil {
		return net.ErrClosed
	}
	s := p.v4
	if to.addr.Addr().Is6() {
		s = p.v6
	}
	if s == nil {
		return syscall.EAFNOSUPPORT
	}
	local := to.local.Load()
	err := s.send(bufs, to.addr, local)
	if err == nil || local == nil {
		return err
	}
	// The local address may be gone, or have gone to another interface.
	if err = s.send(bufs, to.addr, nil); err == nil {
		to.local.CompareAndSwap(local, nil)
	}
	return err
}
