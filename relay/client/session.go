package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/internal/outbox"
)

var (
	errDrained = errors.New("the relay asked us to leave")
	errSilent  = errors.New("the relay does not answer")
	errMoved   = errors.New("the address that it came from is gone")
)

const (
	// writeTimeout is how long one record may take; liveness usually finds out
	// sooner.
	writeTimeout = 5 * time.Second
	// lastWords is how long the reader may take to find a refusal after the
	// writer has found the connection closed.
	lastWords = time.Second
)

// A session is one connection, from welcome to its end. Its reader and its
// writer are a goroutine each; run, in the caller's, watches over both.
type session struct {
	// set at construction
	c     *Client
	tc    *tls.Conn
	fr    *frame.Reader // owned by the reader
	box   *outbox.Box
	wake  chan struct{}      // capacity 1: run must look again
	leave chan time.Duration // capacity 1: the relay drains; how long to stay

	// Times of the client's clock, in nanoseconds.
	heard      atomic.Int64 // when anything last arrived
	unanswered atomic.Int64 // when the first packet was sent since; 0: none
	asleep     atomic.Bool  // run sleeps for longer than a busy connection may
}

// connection connects and runs one session.
func (c *Client) connection(ctx context.Context) (welcomed bool, err error) {
	tc, fr, until, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	s := &session{
		c: c, tc: tc, fr: fr,
		box:   outbox.New(c.budget, &c.queues, maxControl),
		wake:  make(chan struct{}, 1),
		leave: make(chan time.Duration, 1),
	}
	s.heard.Store(int64(c.now()))
	read, written := make(chan error, 1), make(chan error, 1)
	var both sync.WaitGroup
	both.Go(func() { read <- s.read() })
	both.Go(func() { written <- s.write() })

	c.session.Store(s)
	c.set(func(st *State) { st.Phase, st.Until = Connected, until; st.Connects++ })
	c.log.Info("relay connected", "until", until)
	err = s.run(ctx, read, written)
	c.session.Store(nil)
	s.box.Close(nil)
	if errors.Is(err, errDrained) {
		tc.Close() // says goodbye; what was written arrives
	} else {
		tc.NetConn().Close()
	}
	both.Wait()
	return true, err
}

// run pings, renews papers and leaves when asked, until the connection ends.
func (s *session) run(ctx context.Context, read, written <-chan error) error {
	c := s.c
	heard := time.Duration(s.heard.Load())
	l := liveness{heard: heard, asked: heard} // the welcome answered the hello
	timer := time.NewTimer(0)
	defer timer.Stop()
	var leave <-chan time.Time
	for {
		v, next := l.step(c.now(), time.Duration(s.heard.Load()), time.Duration(s.unanswered.Load()))
		switch v {
		case dead:
			return errSilent
		case ping:
			s.ping()
		}
		wait := next - c.now()
		if wait > busyPing {
			// Sleep, unless a packet was sent since step looked; from here on
			// the next one wakes us.
			s.asleep.Store(true)
			if s.unanswered.Load() != 0 && !l.asking {
				s.asleep.Store(false)
				wait = busyPing
			}
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-read:
			return err
		case err := <-written:
			// The relay may have said why before it closed.
			s.tc.SetReadDeadline(time.Now().Add(lastWords))
			var r *frame.Refusal
			if rerr := <-read; errors.As(rerr, &r) {
				return rerr
			}
			return err
		case <-timer.C:
		case <-s.wake:
		case <-c.kick:
			if !c.stands(s.tc.LocalAddr()) {
				return errMoved
			}
			l.ask(c.now(), busyPong)
			s.ping()
		case <-c.papers:
			papers := c.cfg.Papers()
			if n := len(papers); n == 0 || n > frame.MaxPapers {
				return fmt.Errorf("renew papers: %d bytes, want 1 to %d", n, frame.MaxPapers)
			}
			if !s.box.Control(frame.AppendPapers(nil, papers)) {
				return errors.New("renew papers: the relay does not read")
			}
		case in := <-s.leave:
			leave = time.After(in)
			c.set(func(st *State) { st.Draining = true })
		case <-leave:
			return errDrained
		}
		s.asleep.Store(false)
	}
}

// stands reports whether this machine still has a local address. Without it
// nothing arrives any more, and TCP does not say so.
func (c *Client) stands(local net.Addr) bool {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return true // not a connection of this machine's
	}
	addrs, err := c.cfg.Addrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(tcp.IP)
	})
}

// ping asks for a sign of life. The token is the time, from which the pong
// gives the round trip.
func (s *session) ping() {
	s.box.Control(frame.AppendPing(nil, uint64(s.c.now())))
}

// pushed notes that a packet waits for an answer of any kind.
func (s *session) pushed() {
	if s.unanswered.Load() != 0 {
		return
	}
	s.unanswered.CompareAndSwap(0, max(int64(s.c.now()), 1))
	if s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		signal(s.wake)
	}
}

// read handles the relay's frames until the connection ends.
func (s *session) read() error {
	c := s.c
	for {
		t, body, err := s.fr.Next()
		if err != nil {
			return fmt.Errorf("relay connection: %w", err)
		}
		s.heard.Store(int64(c.now()))
		if s.unanswered.Load() != 0 {
			s.unanswered.Store(0)
		}
		switch t {
		case frame.Recv:
			src, packet, err := frame.ParseRecv(body)
			if err != nil {
				return err
			}
			c.received.Add(1)
			c.receivedBytes.Add(uint64(len(packet)))
			c.cfg.Receive(src, packet)
		case frame.Pong:
			token, err := frame.ParsePong(body)
			if err != nil {
				return err
			}
			if rtt := c.now() - time.Duration(token); rtt >= 0 && rtt < time.Minute {
				c.set(func(st *State) { st.RTT = rtt })
			}
		case frame.Gone:
			node, err := frame.ParseGone(body)
			if err != nil {
				return err
			}
			if c.cfg.Gone != nil {
				c.cfg.Gone(node)
			}
		case frame.Here:
			node, err := frame.ParseHere(body)
			if err != nil {
				return err
			}
			if c.cfg.Here != nil {
				c.cfg.Here(node)
			}
		case frame.Welcome:
			_, until, err := frame.ParseWelcome(body)
			if err != nil {
				return err
			}
			c.set(func(st *State) { st.Until = until })
		case frame.Drain:
			after, spread, err := frame.ParseDrain(body)
			if err != nil {
				return err
			}
			select {
			case s.leave <- after + rand.N(spread+1):
			default: // it has asked before
			}
		case frame.Refuse:
			r, err := frame.ParseRefusal(body)
			if err != nil {
				return err
			}
			return r
		}
	}
}

// write empties the Box into the connection.
func (s *session) write() error {
	buf := make([]byte, 0, outbox.BatchSize+1024)
	for range s.box.Ready() {
		for {
			batch, more := s.box.Take(buf[:0], s.c.now())
			if len(batch) == 0 {
				if !more {
					return nil
				}
				break
			}
			s.tc.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := s.tc.Write(batch); err != nil {
				return fmt.Errorf("relay connection: write: %w", err)
			}
		}
	}
	return nil
}
