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
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
)

// A link is what sync does with one coordinator: it keeps the coordinator's
// revision and admissions current, decides the join requests that come from
// there, and takes up acknowledgements. Each of the three is tried again for as
// long as it takes, and none waits for another.
type link struct {
	a    *Applier
	conn *publish.Coordinator
	wake chan struct{}

	mu      sync.Mutex // guards the fields below
	waiting []chan<- error
	state   Link
	pending map[key.NodeID]*wire.JoinEvent // undecided, because no revision was in force
}

// A Link is how it goes with one coordinator.
type Link struct {
	Addr  string    `json:"addr"`
	Seq   int64     `json:"seq,omitempty"` // of the revision that it has
	Since time.Time `json:"since,omitzero"`
	Error string    `json:"error,omitempty"`
}

func newLink(a *Applier, conn *publish.Coordinator) *link {
	return &link{a: a, conn: conn, wake: make(chan struct{}, 1), state: Link{Addr: conn.Addr}, pending: map[key.NodeID]*wire.JoinEvent{}}
}

func (l *link) status() Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// kick pushes now, and tells done how it went.
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
	firstPause   = 100 * time.Millisecond
	longestPause = 15 * time.Second
)

// again calls do until ctx ends, with growing pauses after errors; do resets them
// by returning nil.
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
		err := l.push(ctx)
		l.pushed(err)
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

func (l *link) push(ctx context.Context) error {
	rev := l.a.publisher.Current()
	if rev == nil {
		return errors.New("nothing to publish yet")
	}
	has, err := l.a.publisher.Push(ctx, l.conn, rev, l.a.rootDocs)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.state.Seq != rev.Manifest.Seq {
		l.state.Seq, l.state.Since = rev.Manifest.Seq, time.Now().UTC()
	}
	l.mu.Unlock()
	for _, e := range l.a.admitter.After(has) {
		if err := l.decide(ctx, e.Admission.Identity, e.Note, ""); err != nil {
			return err
		}
	}
	l.retryJoins(ctx)
	return nil
}

// pushed tells those who wait, and the log when it begins to fail.
func (l *link) pushed(err error) {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	text := ""
	if err != nil {
		text = err.Error()
	}
	was := l.state.Error
	l.state.Error = text
	l.mu.Unlock()
	for _, w := range waiting {
		w <- err // has room for one of each coordinator
	}
	if text != was && l.a.publisher.Current() != nil {
		if err != nil {
			l.a.log.Warn("coordinator does not have the revision", "coordinator", l.conn.Addr, "err", err)
		} else {
			l.a.log.Info("coordinator has the revision again", "coordinator", l.conn.Addr)
		}
		l.a.update(func(*Status) {})
	}
}

// joins decides join requests as they come.
func (l *link) joins(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(wire.SilenceAfter, func() { cancel(errSilent) })
	defer silence.Stop()
	s, err := l.conn.API.FollowJoins(ctx, connect.NewRequest(&wire.FollowJoinsRequest{}))
	if err != nil {
		return err
	}
	defer s.Close()
	for s.Receive() {
		silence.Reset(wire.SilenceAfter)
		if len(s.Msg().GetJoin()) > 0 {
			l.join(ctx, s.Msg())
		}
	}
	return s.Err()
}

var errSilent = fmt.Errorf("nothing heard for %s", wire.SilenceAfter)

// join decides one request.
func (l *link) join(ctx context.Context, e *wire.JoinEvent) {
	id, err := key.IdentityPublicFrom(e.GetIdentity())
	if err != nil {
		l.a.log.Warn("join request without an identity key", "coordinator", l.conn.Addr, "err", err)
		return
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
	case errors.Is(err, admit.ErrNotReady):
		l.mu.Lock()
		l.pending[id.NodeID()] = e
		l.mu.Unlock()
		return
	case err != nil:
		l.a.log.Error("join request not decided", "node", id.NodeID().Short(), "err", err)
		return
	default:
		joinDecisions.WithLabelValues("admitted").Inc()
		if l.a.admitter.Len() != before {
			l.a.log.Info("node admitted", "name", ad.Name, "node", id.NodeID().Short(), "basis", ad.Basis, "ipv4", ad.IPv4)
		}
	}
	if err := l.decide(ctx, id, note, reason); err != nil {
		l.a.log.Warn("decision not handed over", "coordinator", l.conn.Addr, "err", err)
	}
	if note != nil {
		if cur := l.a.publisher.Current(); cur != nil {
			l.a.target(cur, time.Now())
		}
		for _, other := range l.a.coordinators {
			if other != l {
				other.kick(nil)
			}
		}
	}
}

// retryJoins decides requests that came before there was a revision.
func (l *link) retryJoins(ctx context.Context) {
	l.mu.Lock()
	pending := l.pending
	l.pending = map[key.NodeID]*wire.JoinEvent{}
	l.mu.Unlock()
	for _, e := range pending {
		l.join(ctx, e)
	}
}

func (l *link) decide(ctx context.Context, id key.IdentityPublic, note []byte, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
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
	return s.Err()
}
