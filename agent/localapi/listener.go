package localapi

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"sync"
)

// A listener accepts at most maxConns connections at once, asks the kernel who
// makes each, and removes the socket from where it was moved to.
type listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo   // of the socket
	free chan struct{} // one for each connection that may still be accepted
	done chan struct{} // closed by Close
	once sync.Once
}

func newListener(l *net.UnixListener, path string, made fs.FileInfo) *listener {
	n := &listener{UnixListener: l, path: path, made: made, free: make(chan struct{}, maxConns), done: make(chan struct{})}
	for range maxConns {
		n.free <- struct{}{}
	}
	return n
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.free:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptUnix()
	if err != nil {
		l.free <- struct{}{}
		return nil, err
	}
	return &peerConn{UnixConn: c, who: credentials(c), release: sync.OnceFunc(func() { l.free <- struct{}{} })}, nil
}

// Close removes the socket while it still listens, and only if it is this one:
// an agent that finds none, or one that nobody answers, makes its own there.
func (l *listener) Close() (err error) {
	l.once.Do(func() {
		close(l.done)
		if info, serr := os.Lstat(l.path); serr == nil && os.SameFile(info, l.made) {
			err = os.Remove(l.path)
		}
		err = errors.Join(err, l.UnixListener.Close())
	})
	return err
}

// A peerConn is a connection with the process at its other end.
type peerConn struct {
	*net.UnixConn
	who     caller
	release func()
}

func (c *peerConn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// caller is the process at the other end, as the kernel saw it connect.
type caller struct {
	uid   uint32
	known bool
}

type callerKey struct{}

func withCaller(ctx context.Context, c net.Conn) context.Context {
	p, ok := c.(*peerConn)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, p.who)
}
