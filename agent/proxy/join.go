package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// limits are how long things may take.
type limits struct {
	request, dial, idle, halfIdle time.Duration
}

var defaultLimits = limits{requestTimeout, dialTimeout, idleTimeout, halfIdleTimeout}

// copySize is what one side may be ahead of the other within join: one TLS
// record, four times over.
const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// The ends of a join that are no side's doing.
var (
	errReset    = errors.New("connection was reset")
	errIdle     = errors.New("connection was idle for too long")
	errHalfIdle = errors.New("half-closed connection was idle for too long")
)

// A joint is two connections, each of which gets what the other one sends.
type joint struct {
	// set at construction
	a, b  net.Conn
	limit limits

	last  atomic.Int64  // when a byte moved, in nanoseconds of the clock
	half  chan struct{} // closed when one direction has ended in order
	ended chan struct{} // closed when both have

	once sync.Once
	err  error // why it was aborted; read after both directions ended
}

// join moves bytes between a and b until both have closed their halves, and
// closes them; its error is then nil. Anything else resets both. early is what a
// has sent already.
func join(ctx context.Context, a, b net.Conn, early []byte, limit limits) error {
	j := &joint{a: a, b: b, limit: limit, half: make(chan struct{}), ended: make(chan struct{})}
	a.SetDeadline(time.Time{})
	b.SetDeadline(time.Time{})
	j.touch()
	var watching, copying sync.WaitGroup
	watching.Go(func() { j.watch(ctx) })
	var ends atomic.Int32
	direction := func(dst, src net.Conn, early []byte) {
		if err := j.copy(dst, src, early); err != nil {
			j.abort(err)
			return
		}
		if ends.Add(1) == 1 {
			close(j.half)
		}
	}
	copying.Go(func() { direction(b, a, early) })
	copying.Go(func() { direction(a, b, nil) })
	copying.Wait()
	close(j.ended)
	watching.Wait()
	j.once.Do(func() {
		a.Close()
		b.Close()
	})
	return j.err
}

// copy moves src's half to dst, its end included.
func (j *joint) copy(dst, src net.Conn, early []byte) error {
	if len(early) > 0 {
		if _, err := dst.Write(early); err != nil {
			return fmt.Errorf("write to %s: %w", dst.RemoteAddr(), err)
		}
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		n, rerr := src.Read(buf[:])
		if n > 0 {
			j.touch()
			if _, err := dst.Write(buf[:n]); err != nil {
				return fmt.Errorf("write to %s: %w", dst.RemoteAddr(), err)
			}
			j.touch()
		}
		if rerr == io.EOF {
			if err := closeWrite(dst); err != nil {
				return fmt.Errorf("close half to %s: %w", dst.RemoteAddr(), err)
			}
			return nil
		}
		if rerr != nil {
			return fmt.Errorf("read from %s: %w", src.RemoteAddr(), rerr)
		}
	}
}

func (j *joint) touch() { j.last.Store(time.Now().UnixNano()) }

// abort resets both sides, which ends both directions.
func (j *joint) abort(err error) {
	j.once.Do(func() {
		j.err = err
		reset(j.a)
		reset(j.b)
	})
}

// watch aborts for the reasons that no Read or Write reports: a reset of a side
// that nobody reads or that is blocked, idleness, the end of ctx.
func (j *joint) watch(ctx context.Context) {
	limit, why, half := j.limit.idle, errIdle, j.half
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-j.ended:
			return
		case <-ctx.Done():
			j.abort(ctx.Err())
			return
		case <-resetOf(j.a):
			j.abort(errReset)
			return
		case <-resetOf(j.b):
			j.abort(errReset)
			return
		case <-half:
			limit, why, half = j.limit.halfIdle, errHalfIdle, nil
			timer.Reset(limit)
		case <-timer.C:
			quiet := time.Since(time.Unix(0, j.last.Load()))
			if quiet >= limit {
				j.abort(why)
				return
			}
			timer.Reset(limit - quiet)
		}
	}
}
