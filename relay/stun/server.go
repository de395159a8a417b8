package stun

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Config is what a Server is made of. Zero limits mean the defaults.
type Config struct {
	Log *slog.Logger // nil logs nothing

	SourceRate  int // answers a second to one source; 20
	SourceBurst int // and at once; 100
	Rate        int // answers a second in all; 20,000
	Burst       int // and at once; 2,000
}

// Why these rates: an office of two hundred nodes behind one address, each of
// which asks two ports every 25 seconds, needs 16 a second, and all of them at
// once after its line was gone. 20,000 answers cost a fifth of a core, and are
// what 250,000 such nodes ask.
const (
	defaultSourceRate, defaultSourceBurst = 20, 100
	defaultRate, defaultBurst             = 20_000, 2_000
)

// A Server answers on any number of sockets, which share its limits.
type Server struct {
	// set at construction
	log   *slog.Logger
	limit *limiter
	start time.Time // the limiter counts time from here

	answered    atomic.Uint64
	dropped     [drops]atomic.Uint64
	readErrors  atomic.Uint64
	writeErrors atomic.Uint64
}

// New makes a Server, which answers nobody until Serve.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{
		{&cfg.SourceRate, defaultSourceRate}, {&cfg.SourceBurst, defaultSourceBurst},
		{&cfg.Rate, defaultRate}, {&cfg.Burst, defaultBurst},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 || *d.v > int(time.Second) {
			return nil, fmt.Errorf("new STUN server: limit %d, want 1 to %d", *d.v, int(time.Second))
		}
	}
	s := &Server{
		log: cfg.Log, start: time.Now(),
		limit: &limiter{
			seed:   maphash.MakeSeed(),
			source: newQuota(cfg.SourceRate, cfg.SourceBurst),
			all:    newQuota(cfg.Rate, cfg.Burst),
		},
	}
	return s, nil
}

// Counts is what a Server has done since New.
type Counts struct {
	Answered                uint64          // requests that an answer was made for
	Dropped                 map[Drop]uint64 // datagrams that got none; every Drop is in it
	ReadErrors, WriteErrors uint64          // of the sockets
}

// Counts is what the Server has done so far.
func (s *Server) Counts() Counts {
	c := Counts{s.answered.Load(), make(map[Drop]uint64), s.readErrors.Load(), s.writeErrors.Load()}
	for d := range drops {
		c.Dropped[d] = s.dropped[d].Load()
	}
	return c
}

// Listen opens a socket for Serve, as net.ListenPacket does. From the first
// datagram on, the kernel tells which of the machine's addresses each was sent to.
func Listen(ctx context.Context, network, addr string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control}
	pc, err := lc.ListenPacket(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("listen %s %s: not UDP", network, addr)
	}
	return c, nil
}

// Serve answers what arrives on pc until ctx is done, and then returns nil. It
// closes pc. On a socket of Listen's each answer leaves from the address that was
// asked, also where the machine has several.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn) error {
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	var (
		door     = open(pc)
		answerer Answerer
		buf      = make([]byte, maxRequest+1) // one more, to see what is too long
		delay    time.Duration
	)
	for {
		n, from, err := door.read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serve STUN on %v: %w", pc.LocalAddr(), err)
			}
			// What one datagram did wrong, or a lack of memory: it passes.
			s.readErrors.Add(1)
			delay = min(max(2*delay, time.Millisecond), time.Second)
			s.log.Warn("read STUN request", "err", err, "retry", delay)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(delay):
			}
			continue
		}
		delay = 0
		answer, err := s.answer(&answerer, buf[:n], from)
		if err != nil {
			continue
		}
		s.answered.Add(1)
		if err := door.write(answer, from); err != nil && ctx.Err() == nil {
			s.writeErrors.Add(1) // no route back, or a full socket: the node asks again
		}
	}
}

// answer is the answer to send, if any; it counts what gets none.
func (s *Server) answer(a *Answerer, request []byte, from netip.AddrPort) ([]byte, error) {
	answer, err := a.Answer(request, from)
	if err == nil {
		why, ok := s.limit.allow(from.Addr(), time.Since(s.start))
		if ok {
			return answer, nil
		}
		err = why
	}
	var why Drop
	if errors.As(err, &why) {
		s.dropped[why].Add(1)
	}
	return nil, err
}

// A door reads requests and writes each answer, by the way its request came.
type door interface {
	read(b []byte) (n int, from netip.AddrPort, err error)
	write(b []byte, to netip.AddrPort) error
}

func open(pc net.PacketConn) door {
	if c, ok := pc.(*net.UDPConn); ok {
		return openUDP(c)
	}
	return &plain{pc: pc}
}

// plain is a door to anything that carries datagrams.
type plain struct {
	pc   net.PacketConn
	last net.Addr
}

func (d *plain) read(b []byte) (int, netip.AddrPort, error) {
	n, from, err := d.pc.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	d.last = from
	if u, ok := from.(*net.UDPAddr); ok {
		return n, u.AddrPort(), nil
	}
	ap, _ := netip.ParseAddrPort(from.String()) // zero: not answered
	return n, ap, nil
}

func (d *plain) write(b []byte, _ netip.AddrPort) error {
	_, err := d.pc.WriteTo(b, d.last)
	return err
}
