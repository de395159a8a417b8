package path

import (
	"fmt"
	"math/bits"
	"net/netip"
	"time"
)

const (
	// A candidate that works replaces another only if it is better by a tenth and
	// by 5 ms, in three pongs in a row, and after the other was used for 15 s:
	// what a person would notice, and not noise.
	betterBy    = 5 * time.Millisecond
	betterTimes = 3
	dwell       = 15 * time.Second

	// choosing is how long after the upgrade from the relay a better candidate
	// wins at once: the first that answers is often not the best.
	choosing = time.Second

	// Handicaps order paths of about the same delay: one that stays on the site,
	// then one without a NAT, then others.
	handicap6 = 2 * time.Millisecond
	handicap4 = 3 * time.Millisecond

	// lossCost is what losing every probe would cost: a tenth lost is as bad as
	// 40 ms.
	lossCost = 400 * time.Millisecond

	// A path is lossy from manyLost of the last lossWindow probes on, a quarter,
	// until few are left.
	lossWindow = 20
	manyLost   = 5
	fewLost    = 2

	// A path that was doubted flapping times in flapTime counts as lossy too: its
	// losses come in bursts that its pings do not count.
	flapping = 3
	flapTime = time.Minute
)

// losses are the fates of the last lossWindow pings of a path.
type losses struct {
	lost uint32 // bit 0 is the latest
	n    int
}

func (l *losses) add(lost bool) {
	l.lost = l.lost << 1 & (1<<lossWindow - 1)
	if lost {
		l.lost |= 1
	}
	l.n = min(l.n+1, lossWindow)
}

func (l losses) count() int      { return bits.OnesCount32(l.lost) }
func (l losses) many() bool      { return l.count() >= manyLost }
func (l losses) manyStill() bool { return l.count() > fewLost }
func (l losses) String() string  { return fmt.Sprintf("%d of %d pings lost", l.count(), l.n) }

// ratio is the part lost, of a full window so that the first loss is not all.
func (l losses) ratio() float64 { return float64(l.count()) / lossWindow }

// flaps reports whether c was doubted often of late.
func (c *candidate) flaps() bool {
	return !c.doubts[0].IsZero() && c.peer.e.now.Sub(c.doubts[0]) < flapTime
}

// score is how good a path is; less is better.
func (c *candidate) score() time.Duration {
	return c.rtt + handicap(c.addr.Addr()) + time.Duration(c.losses.ratio()*float64(lossCost))
}

func handicap(a netip.Addr) time.Duration {
	switch {
	case near(a):
		return 0
	case a.Is6():
		return handicap6
	}
	return handicap4
}

// best is the best candidate that may carry data; nil when there is none.
func (p *peer) best() (best *candidate) {
	for _, c := range p.candidates {
		if c.proved() && (best == nil || c.score() < best.score()) {
			best = c
		}
	}
	return best
}

// compare judges whether c, which has just answered, should replace the path in
// use.
func (p *peer) compare(c *candidate) {
	u := p.using
	if u == nil || c == u || !c.proved() {
		return
	}
	switch p.state {
	case Direct, Lossy, Suspected:
	default:
		return
	}
	now := p.e.now
	mine, theirs := c.score(), u.score()
	if now.Sub(p.upgraded) < choosing && mine < theirs {
		p.adopt(c, fmt.Sprintf("better than %v at once", u.addr))
		return
	}
	if mine > theirs-betterBy || mine > theirs-theirs/10 {
		c.better = 0
		return
	}
	if c.better++; c.better >= betterTimes && now.Sub(p.adopted) >= dwell {
		p.adopt(c, fmt.Sprintf("%v instead of %v", mine.Round(time.Millisecond), theirs.Round(time.Millisecond)))
	}
}
