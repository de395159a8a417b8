package underlay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/writmesh/writ/agent/path"
	"github.com/writmesh/writ/coordinator/key"
)

// A Pong is the answer to Ping.
type Pong struct {
	Direct bool // by the direct path, or else by relay
	RTT    time.Duration
}

const (
	// probeAgain is when a ping that nobody answered is sent again, with another
	// id: a lost packet must not cost the whole of the caller's patience.
	probeAgain = time.Second

	// graceOfDirect is how long an answer by relay waits for one by the direct path
	// that is in use.
	graceOfDirect = 300 * time.Millisecond
)

// ErrNoPeer means that a node is no peer of this one.
var ErrNoPeer = errors.New("not a peer")

// Ping probes the path to a peer until there is an answer: the direct path if one
// is in use, or else that by relay. It wakes the peer's path, as traffic does.
func (u *Underlay) Ping(ctx context.Context, id key.NodeID) (Pong, error) {
	answers := make(chan path.Ponged, 8)
	probe := func() (err error) {
		u.do(func() {
			switch {
			case u.phase != running:
				err = ErrClosed
			case u.pairs.byID[id] == nil:
				err = ErrNoPeer
			default:
				if !slices.Contains(u.waiting[id], answers) {
					u.waiting[id] = append(u.waiting[id], answers)
				}
				u.engine.Probe(time.Now(), id)
			}
		})
		return err
	}
	defer u.forget(id, answers)
	if err := probe(); err != nil {
		return Pong{}, err
	}
	again := time.NewTicker(probeAgain)
	defer again.Stop()
	var byRelay *Pong
	var grace <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return Pong{}, ctx.Err()
		case <-u.ctx.Done():
			return Pong{}, ErrClosed
		case <-again.C:
			if err := probe(); err != nil {
				return Pong{}, err
			}
		case <-grace:
			return *byRelay, nil
		case a := <-answers:
			got := Pong{Direct: a.From.IsValid(), RTT: a.RTT}
			if got.Direct || !u.Verdict(id).Choice.Direct.IsValid() {
				return got, nil
			}
			if byRelay == nil {
				byRelay, grace = &got, time.After(graceOfDirect)
			}
		}
	}
}

// forget ends the waiting of a Ping.
func (u *Underlay) forget(id key.NodeID, answers chan path.Ponged) {
	u.mu.Lock()
	defer u.mu.Unlock()
	rest := slices.DeleteFunc(u.waiting[id], func(c chan path.Ponged) bool { return c == answers })
	if len(rest) == 0 {
		delete(u.waiting, id)
		return
	}
	u.waiting[id] = rest
}

// Verdict is what is known of the path to a peer.
func (u *Underlay) Verdict(id key.NodeID) path.Verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.engine.Verdict(id)
}
