package client

import "time"

const (
	// idlePing is how long an idle connection is taken on trust, and how long at
	// most a client says nothing: the relay ends a connection on which nothing
	// arrives for 100 s, however much it sends on it. Tables of stateful firewalls
	// forget TCP after minutes, radios wake seldom enough.
	idlePing = 30 * time.Second
	// idlePong leaves time for a radio to wake, and for two retransmissions.
	idlePong = 5 * time.Second
	// busyPing and busyPong find a relay that swallows packets in three
	// seconds, while there are packets to swallow. Whatever arrives counts as
	// an answer.
	busyPing = time.Second
	busyPong = 2 * time.Second
)

// liveness decides when to ping and when a relay is dead. It is a value
// without clock or timers: step is given the time and says when to ask again.
type liveness struct {
	heard  time.Duration // when anything last arrived
	asked  time.Duration // when the newest ping was sent
	asking bool          // and nothing has arrived since
	dead   time.Duration // when the relay is dead if nothing arrives
}

type verdict byte

const (
	alive verdict = iota
	ping          // send one now
	dead
)

// step judges the connection. Heard is when anything last arrived; unanswered
// is when the first packet was written since, or 0.
func (l *liveness) step(now, heard, unanswered time.Duration) (v verdict, next time.Duration) {
	if heard > l.heard {
		l.heard = heard
		if heard >= l.asked {
			l.asking = false
		}
	}
	if l.asking {
		// A packet that waits for an answer shortens a leisurely ping.
		if unanswered != 0 {
			l.dead = min(l.dead, max(unanswered+busyPing, l.asked)+busyPong)
		}
		if now >= l.dead {
			return dead, 0
		}
		return alive, l.dead
	}
	// What arrives shows that the relay lives and tells it nothing of this end.
	due := min(l.heard, l.asked) + idlePing
	wait := idlePong
	if unanswered != 0 && unanswered+busyPing < due {
		due, wait = unanswered+busyPing, busyPong
	}
	if now < due {
		return alive, due
	}
	l.ask(now, wait)
	return ping, l.dead
}

// ask notes that a ping was sent.
func (l *liveness) ask(now, wait time.Duration) {
	if !l.asking || now+wait < l.dead {
		l.dead = now + wait
	}
	if !l.asking {
		l.asked = now
	}
	l.asking = true
}
