package client

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestLivenessBounds runs random traffic over a relay that dies at a random
// moment, and checks the promises of the constants: a dead relay is found in
// time, a living one that answers within two seconds is never given up, and
// pings stay rare.
func TestLivenessBounds(t *testing.T) {
	const tick = 10 * time.Millisecond
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		delay := time.Duration(r.IntN(190)) * tick // of every answer
		dies := 20*time.Second + time.Duration(r.IntN(6000))*tick
		busy := r.IntN(2) == 0
		var (
			l                        liveness
			heard, unanswered        time.Duration
			answers                  []time.Duration // when pongs arrive
			pings                    int
			firstLost, found, lookAt time.Duration
		)
		for now := tick; now < 3*time.Minute && found == 0; now += tick {
			if len(answers) > 0 && answers[0] <= now {
				heard, unanswered, answers = now, 0, answers[1:]
				firstLost = 0 // this answer was on its way when the relay died
			}
			if busy && r.IntN(30) == 0 {
				if unanswered == 0 {
					unanswered = now
				}
				if now > dies && firstLost == 0 {
					firstLost = now
				}
			}
			if now < lookAt && unanswered == 0 {
				continue
			}
			v, next := l.step(now, heard, unanswered)
			lookAt = next
			switch v {
			case ping:
				pings++
				if now < dies {
					answers = append(answers, now+delay)
				}
			case dead:
				found = now
			}
		}
		switch {
		case found == 0:
			t.Errorf("seed %d: dead at %v, never found", seed, dies)
		case found < dies:
			t.Errorf("seed %d: given up at %v, alive until %v with answers after %v", seed, found, dies, delay)
		case busy && found > firstLost+busyPing+busyPong+2*tick:
			t.Errorf("seed %d: first packet lost at %v, found at %v", seed, firstLost, found)
		case !busy && found > dies+idlePing+idlePong+delay+2*tick:
			t.Errorf("seed %d: dead at %v, found at %v", seed, dies, found)
		}
		if most := int(found/busyPing) + 1; busy && pings > most || !busy && pings > int(found/idlePing)+1 {
			t.Errorf("seed %d: %d pings in %v", seed, pings, found)
		}
	}
}

// TestLivenessSpeaks: whatever arrives, and however often, a ping leaves at
// least every idlePing, and no more often than that while every ping is
// answered.
func TestLivenessSpeaks(t *testing.T) {
	const tick = 10 * time.Millisecond
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		every := 1 + r.IntN(4000) // ticks between what arrives, on average
		var (
			l           liveness
			heard, last time.Duration
			lookAt      time.Duration
		)
		for now := tick; now < 10*time.Minute; now += tick {
			if r.IntN(every) == 0 || last != 0 && now == last+50*tick {
				heard = now
			}
			if now < lookAt {
				continue
			}
			v, next := l.step(now, heard, 0)
			lookAt = next
			if v == dead {
				t.Fatalf("seed %d: dead at %v, though every ping is answered within half a second", seed, now)
			}
			if v != ping {
				continue
			}
			if gap := now - last; gap < idlePing || gap > idlePing+2*tick {
				t.Errorf("seed %d: at %v a ping %v after the one before, want %v", seed, now, gap, idlePing)
			}
			last = now
		}
		if last < 9*time.Minute {
			t.Errorf("seed %d: the last ping is of %v", seed, last)
		}
	}
}
