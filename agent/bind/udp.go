package bind

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/writmesh/writ/coordinator/key"
)

// portTries is how often a free port is looked for. Between finding one and
// taking it somebody else may; eight times in a row, nobody does by accident.
const portTries = 8

// udp is a Bind's pair of sockets: wireguard-go's own, with its batches, its
// segmentation offloads and its source addresses.
type udp struct {
	// set at construction
	std      conn.Bind // nil: there are no sockets
	fixed    uint16    // Config.Port
	received func(src netip.AddrPort, pkt []byte)
	failed   func(id key.NodeID, to netip.AddrPort, err error)

	// guarded by Bind.life
	opened bool   // there were sockets at least once
	last   uint16 // the port they had
	err    error  // why there are none in this opening

	port atomic.Uint32 // of the sockets; zero: there are none. Written with Bind.life held

	control, strangers, foreign, unread atomic.Uint64
}

func (u *udp) init(cfg Config) {
	u.fixed, u.received, u.failed = cfg.Port, cfg.Control, cfg.Failed
	if cfg.UDP {
		u.std = conn.NewStdNetBind()
	}
}

// open opens the sockets at the fixed port, or at wish or the one they had if it
// is free, or at any. Bind.life is held.
func (u *udp) open(wish uint16) ([]conn.ReceiveFunc, uint16, error) {
	if u.last != 0 {
		wish = u.last
	}
	var fns []conn.ReceiveFunc
	var port uint16
	var err error
	switch {
	case u.fixed != 0:
		fns, port, err = u.openAt(u.fixed)
	case wish != 0:
		if fns, port, err = u.openAt(wish); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		fallthrough
	default:
		fns, port, err = u.openAny()
	}
	if err != nil {
		err = fmt.Errorf("open sockets: %w", err)
		if u.opened {
			u.err = err
			return nil, u.last, nil
		}
		return nil, 0, err
	}
	u.opened, u.last = true, port
	u.port.Store(uint32(port))
	return fns, port, nil
}

// openAt opens the sockets at port, which is not zero.
func (u *udp) openAt(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, _, err := u.std.Open(port)
	if err != nil {
		return nil, 0, fmt.Errorf("port %d: %w", port, err)
	}
	return fns, port, nil
}

// openAny opens the sockets at a free port.
func (u *udp) openAny() ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := u.std.Open(0)
	if err != nil || port != 0 {
		return fns, port, err
	}
	// A system without IPv6: the port reported is that of the socket which is
	// not there, and what the other has is not to be learned.
	u.std.Close()
	for range portTries {
		if port, err = freePort(); err != nil {
			return nil, 0, err
		}
		if fns, _, err = u.openAt(port); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return fns, port, err
}

// freePort is a port that was free a moment ago.
func freePort() (uint16, error) {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// close closes the sockets, if there are any. Bind.life is held.
func (u *udp) close() error {
	if u.std == nil {
		return nil
	}
	u.port.Store(0)
	u.err = nil
	return u.std.Close()
}

// send gives packets to the socket of to's family.
func (u *udp) send(to *remote, bufs [][]byte) error {
	if u.port.Load() == 0 {
		return net.ErrClosed
	}
	std := to.std.Load()
	err := u.write(bufs, std)
	if err == nil || !std.SrcIP().IsValid() {
		return err
	}
	// The local address may be gone, or have gone to another interface.
	bare := &conn.StdNetEndpoint{AddrPort: to.addr}
	if err = u.write(bufs, bare); err == nil {
		to.std.CompareAndSwap(std, bare)
	}
	return err
}

func (u *udp) write(bufs [][]byte, std *conn.StdNetEndpoint) error {
	err := u.std.Send(bufs, std)
	if err == nil {
		return nil
	}
	// The interface has no segmentation offload; what matters is how the packets
	// fared when they were sent again one by one.
	if without, ok := errors.AsType[conn.ErrUDPGSODisabled](err); ok {
		return without.RetryErr
	}
	return err
}
