package watch

import (
	"context"
	"math/rand/v2"
	"time"
)

// maxBackoff bounds the wait after failures: a remote that comes back after a
// day is noticed within this.
const maxBackoff = 5 * time.Minute

// Wake has Run fetch now rather than at the next poll. Calls while a fetch runs
// lead to one more.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run fetches, and then again at every poll and Wake, until the context ends,
// whose cause it returns. It calls changed with the first head and with each new
// one. A head that changed returns an error for is given to it again, with waits
// that grow, as they do when fetching fails; what is wrong with the commit itself
// should therefore not be an error.
func (f *Follower) Run(ctx context.Context, changed func(ctx context.Context, head string) error) error {
	return f.run(ctx, f.Fetch, changed)
}

func (f *Follower) run(ctx context.Context, fetch func(context.Context) (string, error), changed func(context.Context, string) error) error {
	var (
		done    string // the last head that changed took
		fails   int    // in a row
		timer   = time.NewTimer(0)
		failing bool // fetching, as logged
	)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-f.wake:
		}
		head, err := fetch(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case err != nil && !failing:
			failing = true
			f.log.Warn("policy repository cannot be fetched; the last revision stays", "err", err)
		case err == nil && failing:
			failing = false
			f.log.Info("policy repository is fetched again", "head", head)
		}
		if err == nil && head != done {
			if err = changed(ctx, head); err == nil {
				done = head
			}
		}
		if err != nil {
			fails++
		} else {
			fails = 0
		}
		timer.Reset(f.pause(fails))
	}
}

// pause is how long to wait: the interval, doubled with every failure up to
// maxBackoff, less up to a quarter by chance, so that many followers of one
// remote do not meet.
func (f *Follower) pause(fails int) time.Duration {
	d := f.interval
	for range min(fails, 32) {
		if d *= 2; d >= maxBackoff {
			d = max(maxBackoff, f.interval)
			break
		}
	}
	return d - rand.N(d/4+1)
}
