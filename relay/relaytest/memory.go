package relaytest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A listener hands out connections in memory. They have a buffer, unlike
// net.Pipe: TLS needs both ends to be able to write at once.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

var errRefused = errors.New("relaytest: connection refused")

func (l *listener) dial() (net.Conn, error) {
	a, b := pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, errRefused
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "memory" }
func (addr) String() string  { return "memory" }

// pipe is a connection in memory, both ends.
func pipe() (a, b net.Conn) {
	x, y := newStream(), newStream()
	return &end{in: x, out: y}, &end{in: y, out: x}
}

// streamBuffer is what one direction holds before its writer waits, about a
// socket's.
const streamBuffer = 64 << 10

// A stream is one direction.
type stream struct {
	mu            sync.Mutex
	cond          *sync.Cond
	buf           []byte
	closed        bool
	readBy, sendB time.Time // deadlines
	timers        [2]*time.Timer
}

func newStream() *stream {
	s := new(stream)
	s.cond = sync.NewCond(&s.mu)
	return s
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case expired(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(b, s.buf)
			s.buf = s.buf[n:]
			s.cond.Broadcast()
			return n, nil
		case s.closed:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *stream) write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b) > 0 {
		switch room := streamBuffer - len(s.buf); {
		case s.closed:
			return n, io.ErrClosedPipe
		case expired(s.sendB):
			return n, os.ErrDeadlineExceeded
		case room > 0:
			k := min(room, len(b))
			s.buf = append(s.buf, b[:k]...)
			b, n = b[k:], n+k
			s.cond.Broadcast()
		default:
			s.cond.Wait()
		}
	}
	return n, nil
}

// deadline sets one of the two deadlines and sees to it that it is noticed.
func (s *stream) deadline(which int, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if which == 0 {
		s.readBy = at
	} else {
		s.sendB = at
	}
	if t := s.timers[which]; t != nil {
		t.Stop()
	}
	if !at.IsZero() {
		s.timers[which] = time.AfterFunc(time.Until(at), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cond.Broadcast()
		})
	}
	s.cond.Broadcast()
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, t := range s.timers {
		if t != nil {
			t.Stop()
		}
	}
	s.cond.Broadcast()
}

// An end is one end of a pipe.
type end struct{ in, out *stream }

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b) }

func (e *end) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

func (e *end) LocalAddr() net.Addr                { return addr{} }
func (e *end) RemoteAddr() net.Addr               { return addr{} }
func (e *end) SetReadDeadline(t time.Time) error  { e.in.deadline(0, t); return nil }
func (e *end) SetWriteDeadline(t time.Time) error { e.out.deadline(1, t); return nil }

func (e *end) SetDeadline(t time.Time) error {
	e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

// A muffled connection can be made to swallow everything.
type muffled struct {
	net.Conn
	silent *atomic.Bool
}

func (m *muffled) Read(b []byte) (int, error) {
	for {
		n, err := m.Conn.Read(b)
		if err != nil || !m.silent.Load() {
			return n, err
		}
	}
}

func (m *muffled) Write(b []byte) (int, error) {
	if m.silent.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}
