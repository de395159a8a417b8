package client

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/writmesh/writ/relay/frame"
)

const (
	// firstDelay is short because the usual reason is a relay that restarts
	// or a network that changed, and both are over in less.
	firstDelay = 50 * time.Millisecond
	maxDelay   = 30 * time.Second
	// settled is how long a connection lasts before the delays begin anew; one
	// that ends sooner is as good as a failure.
	settled = 10 * time.Second
)

// A backoff is how long to wait before the next attempt. Each delay is drawn
// evenly from the upper half of a bound that doubles.
type backoff struct{ bound time.Duration }

func (b *backoff) after(err error, lasted time.Duration) time.Duration {
	switch {
	case errors.Is(err, errDrained): // the relay has chosen the moment already
		*b = backoff{}
		return 0
	case errors.Is(err, errMoved): // and nothing is wrong with the relay
		*b = backoff{}
		return 0
	}
	if lasted >= settled {
		*b = backoff{}
	}
	b.bound = min(max(2*b.bound, firstDelay), maxDelay)
	bound := max(b.bound, atLeast(err))
	return bound/2 + rand.N(bound/2+1)
}

// atLeast is the bound that a refusal asks for: how soon its reason can be
// gone. New papers and Kick end every wait.
func atLeast(err error) time.Duration {
	var r *frame.Refusal
	if !errors.As(err, &r) {
		return 0
	}
	switch r.Kind {
	case frame.NotReady:
		return 500 * time.Millisecond // it learns the network as it starts
	case frame.NotAdmitted:
		return 2 * time.Second // it may learn of us with the next revision
	case frame.Ended, frame.Revoked, frame.Violation:
		return maxDelay // only new papers, or a new program, can help
	case frame.Replaced:
		return maxDelay // somebody else holds our key and is connected
	}
	return time.Second // busy, and kinds to come
}
