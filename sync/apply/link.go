package apply

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
)

// A link is what sync does with one coordinator: it keeps the coordinator's
// revision and admissions current, decides the join requests that come from
// there, and takes up acknowledgements. Each of the three is tried again for as
// long as it takes, and none waits for another.
type link struct {
	a     *Applier
	conn  *publish.Coordinator
	wake  chan struct{}
	level chan struct{} // closed once the coordinator was seen to have nothing that the log lacks
	once  sync.Once     // of level

	mu      sync.Mutex // guards the fields below
	waiting []chan<- error
	state   Link
}

// A Link is how it goes with one coordinator.
type Link struct {
	Addr  string    `json:"addr"`
	Seq   int64     `json:"seq,omitempty"` // of the revision that it has, and all admissions with it
	Since time.Time `json:"since,omitzero"`
	Error string    `json:"error,omitempty"`
}

func newLink(a *Applier, conn *publish.Coordinator) *link {
	return &link{a: a, conn: conn, wake: make(chan struct{}, 1), level: make(chan struct{}), state: Link{Addr: conn.Addr}}
}

func (l *link) status() Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// kick pushes now, and tells done how it went with what is current now, or newer.
func (l *link) kick(done chan<- error) {
	l.mu.Lock()
	if done != nil {
		l.waiting = append(l.waiting, done)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

const (
	// callTimeout bounds a call that carries one document.
	callTimeout = 10 * time.Second

	firstPause   = 100 * time.Millisecond
	longestPause = 15 * time.Second
)

// again calls do until ctx ends, with pauses that grow while it ends soon.
func again(ctx context.Context, what string, l *link, do func(context.Context) error) {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := do(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestPause {
			pause = firstPause // it worked for a while
		}
		l.a.log.Debug(what+" ended", "coordinator", l.conn.Addr, "err", err)
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, longestPause)
	}
}

func (l *link) run(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { l.pushes(ctx) })
	tasks.Go(func() { again(ctx, "join requests", l, l.joins) })
	tasks.Go(func() { again(ctx, "acknowledgements", l, l.acks) })
	tasks.Wait()
	l.conn.HTTP.CloseIdleConnections()
}

// pushes keeps the coordinator's revision and admissions current.
func (l *link) pushes(ctx context.Context) {
	pause := time.Duration(0)
	l.kick(nil) // what was decided before a restart
	for {
		var timer <-chan time.Time
		if pause > 0 {
			timer = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer:
		}
		l.mu.Lock()
		waiting := l.waiting // who comes while this pushes, waits for the next
		l.waiting = nil
		l.mu.Unlock()
		err := l.push(ctx)
		if ctx.Err() != nil {
			return
		}
		l.pushed(err, waiting)
		switch {
		case err == nil:
			pause = 0
		case pause == 0:
			pause = firstPause
		default:
			pause = min(2*pause, longestPause)
		}
	}
}

// push brings the coordinator to the revision in force, and all admissions to it.
// Where none is in force it makes sure that the coordinator has none either.
func (l *link) push(ctx context.Context) error {
	rev := l.a.publisher.Current()
	if rev == nil {
		return l.empty(ctx)
	}
	if l.a.past(rev) {
		return nil // the next one is on its way
	}
	has, err := l.a.publisher.Push(ctx, l.conn, rev, l.a.rootDocs)
	if err != nil {
		return err
	}
	if n := l.a.admitter.Len(); has > n {
		return fmt.Errorf("%s has %d admissions, and the log of this sync %d: %w", l.conn.Addr, has, n, admit.ErrLost)
	}
	for _, e := range l.a.admitter.After(has) {
		if err := l.decide(ctx, e.Admission.Identity, e.Note, ""); err != nil {
			return fmt.Errorf("hand admission %d to %s: %w", e.Admission.Log, l.conn.Addr, err)
		}
	}
	l.mu.Lock()
	if l.state.Seq != rev.Manifest.Seq {
		l.state.Seq, l.state.Since = rev.Manifest.Seq, time.Now().UTC()
	}
	l.mu.Unlock()
	l.once.Do(func() { close(l.level) })
	return nil
}

// empty is an error where the coordinator has a revision, or cannot say.
func (l *link) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := l.conn.API.Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
	switch {
	case connect.CodeOf(err) == connect.CodeFailedPrecondition:
		return nil // it has no root document yet
	case err != nil:
		return fmt.Errorf("ask %s for its revision: %w", l.conn.Addr, err)
	}
	m, err := trust.OpenManifest(r.Msg.GetManifest(), l.a.root)
	switch {
	case len(r.Msg.GetManifest()) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("%s has a revision that does not verify: %w", l.conn.Addr, err)
	}
	return fmt.Errorf("%s has revision %s of commit %s, and this sync has none: its state is lost; nothing is signed until it is recovered",
		l.conn.Addr, m.Position, m.Commit.Short())
}

// pushed tells those who waited, and the log when it begins to fail. A head of the
// branch may have waited for this coordinator.
func (l *link) pushed(err error, waiting []chan<- error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	was := l.state.Error
	l.state.Error = text
	l.mu.Unlock()
	for _, w := range waiting {
		w <- err // has room for one of each coordinator
	}
	if text == was {
		l.a.update(func(*Status) {}) // it may have the revision now
		return
	}
	if err != nil {
		l.a.log.Warn("coordinator is not up to date", "coordinator", l.conn.Addr, "err", err)
	} else {
		l.a.log.Info("coordinator is up to date again", "coordinator", l.conn.Addr)
		l.a.Wake()
	}
	l.a.update(func(*Status) {})
}

// joins decides join requests as they come. Nobody is judged before there is a
// revision that the coordinator has, and the coordinator was seen to have no
// admission that the log lacks: a log that was lost would lease its addresses
// again. A request that could not be decided, or whose decision could not be
// handed over, comes again with the next stream.
func (l *link) joins(ctx context.Context) error {
	select {
	case <-l.level:
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(wire.SilenceAfter, func() { cancel(errSilent) })
	defer silence.Stop()
	s, err := l.conn.API.FollowJoins(ctx, connect.NewRequest(&wire.FollowJoinsRequest{}))
	if err != nil {
		return err
	}
	defer s.Close()
	var again *time.Timer
	for s.Receive() {
		silence.Reset(wire.SilenceAfter)
		if len(s.Msg().GetJoin()) == 0 {
			continue
		}
		if err := l.join(ctx, s.Msg()); err != nil && ctx.Err() == nil {
			l.a.log.Error("join request is decided later", "coordinator", l.conn.Addr, "err", err)
			if again == nil {
				again = time.AfterFunc(longestPause, func() { cancel(errUndecided) })
				defer again.Stop()
			}
		}
	}
	return ended(ctx, s.Err())
}

// ended prefers why this end gave up to what the transport made of it.
func ended(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

var (
	errSilent    = fmt.Errorf("nothing heard for %s", wire.SilenceAfter)
	errUndecided = errors.New("a join request is to be decided again")
)

// join decides one request. An error says that it is not decided yet, or that the
// coordinator does not know.
func (l *link) join(ctx context.Context, e *wire.JoinEvent) error {
	id, err := key.IdentityPublicFrom(e.GetIdentity())
	if err != nil {
		// No other answer could be given to nobody, now or later.
		l.a.log.Warn("join request without an identity key", "coordinator", l.conn.Addr, "err", err)
		return nil
	}
	before := l.a.admitter.Len()
	ad, note, err := l.a.admitter.Decide(id, e.GetJoin(), time.Now())
	var refusal *admit.Refusal
	reason := ""
	switch {
	case errors.As(err, &refusal):
		reason = refusal.Reason
		joinDecisions.WithLabelValues("refused").Inc()
		l.a.log.Warn("node not admitted", "node", id.NodeID().Short(), "why", reason)
	case err != nil:
		return fmt.Errorf("node %s: %w", id.NodeID().Short(), err)
	default:
		joinDecisions.WithLabelValues("admitted").Inc()
		if l.a.admitter.Len() != before {
			l.a.log.Info("node admitted", "name", ad.Name, "node", id.NodeID().Short(), "basis", ad.Basis, "ipv4", ad.IPv4)
		}
		if cur := l.a.publisher.Current(); cur != nil {
			l.a.target(cur, time.Now())
		}
		for _, other := range l.a.coordinators {
			if other != l {
				other.kick(nil)
			}
		}
	}
	if err := l.decide(ctx, id, note, reason); err != nil {
		if note != nil {
			l.kick(nil) // the coordinator may lack the admissions before it
		}
		return fmt.Errorf("hand the decision on node %s to %s: %w", id.NodeID().Short(), l.conn.Addr, err)
	}
	return nil
}

func (l *link) decide(ctx context.Context, id key.IdentityPublic, note []byte, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := l.conn.API.Decide(ctx, connect.NewRequest(&wire.DecideRequest{Identity: id.Ed25519(), Admission: note, Reason: reason}))
	return err
}

// acks takes up acknowledgements as they come.
func (l *link) acks(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(wire.SilenceAfter, func() { cancel(errSilent) })
	defer silence.Stop()
	s, err := l.conn.API.FollowAcks(ctx, connect.NewRequest(&wire.FollowAcksRequest{}))
	if err != nil {
		return err
	}
	defer s.Close()
	l.kick(nil) // it may have come back with less than it had
	for s.Receive() {
		silence.Reset(wire.SilenceAfter)
		m := s.Msg()
		if len(m.GetIdentity()) == 0 {
			continue
		}
		id, err := key.IdentityPublicFrom(m.GetIdentity())
		if err == nil {
			var since time.Time
			if m.GetOfflineSince() != 0 {
				since = time.Unix(m.GetOfflineSince(), 0)
			}
			err = l.a.reporter.Ack(id.NodeID(), m.GetAck(), m.GetOnline(), since, time.Now())
		}
		if err != nil {
			l.a.log.Warn("acknowledgement refused", "coordinator", l.conn.Addr, "err", err)
		}
	}
	return ended(ctx, s.Err())
}
