package watch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A script is a remote whose answers, and their times, a test writes and reads.
type script struct {
	begin   time.Time
	answers func(n int) (string, error) // n counts from 0

	mu sync.Mutex
	at []time.Duration // when each fetch came
}

func (s *script) fetch(context.Context) (string, error) {
	s.mu.Lock()
	s.at = append(s.at, time.Since(s.begin))
	n := len(s.at) - 1
	s.mu.Unlock()
	return s.answers(n)
}

func (s *script) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

func newLoop(log *bytes.Buffer) *Follower {
	return &Follower{interval: 30 * time.Second, log: slog.New(slog.NewTextHandler(log, nil)), wake: make(chan struct{}, 1)}
}

func TestRunPollsAndWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newLoop(&log)
		s := &script{begin: time.Now(), answers: func(n int) (string, error) {
			if n == 1 { // calls while a fetch runs lead to one more
				f.Wake()
				f.Wake()
				f.Wake()
			}
			return []string{"a", "a", "b"}[min(n, 2)], nil
		}}
		var heads []string
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- f.run(ctx, s.fetch, func(_ context.Context, head string) error { heads = append(heads, head); return nil })
		}()
		synctest.Wait()
		if at := s.times(); len(at) != 1 || at[0] != 0 {
			t.Fatalf("got fetches at %v; want one at once", at)
		}
		time.Sleep(time.Second)
		f.Wake()
		synctest.Wait()
		if at := s.times(); len(at) != 3 || at[1] != time.Second || at[2] != time.Second {
			t.Errorf("got fetches at %v; want two more after 1s, when woken", at)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if at := s.times(); len(at) != 4 || at[3] < 23500*time.Millisecond || at[3] > 31*time.Second {
			t.Errorf("got fetches at %v; want the fourth 22.5 to 30s after the third", at)
		}
		stop := errors.New("stop")
		cancel(stop)
		if err := <-done; err != stop {
			t.Errorf("got %v, want the context's cause", err)
		}
		if got := strings.Join(heads, " "); got != "a b" {
			t.Errorf("got heads %s, want a b", got)
		}
		if log.Len() != 0 {
			t.Errorf("got log %s, want none", &log)
		}
	})
}

// A day without the remote: one line in the log, waits that grow to five minutes,
// and once it is back, within one more.
func TestRunBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newLoop(&log)
		begin := time.Now()
		s := &script{begin: begin, answers: func(int) (string, error) {
			if time.Since(begin) < 24*time.Hour {
				return "", errors.New("503")
			}
			return "a", nil
		}}
		var recovered time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- f.run(ctx, s.fetch, func(context.Context, string) error { recovered = time.Since(begin); return nil })
		}()
		time.Sleep(24*time.Hour + maxBackoff)
		synctest.Wait()
		cancel()
		<-done
		if recovered < 24*time.Hour {
			t.Errorf("back after %v, want within %s of a day", recovered, maxBackoff)
		}
		for i := 1; i < len(s.at) && s.at[i-1] < 24*time.Hour; i++ {
			wait := s.at[i] - s.at[i-1]
			most := min(30*time.Second<<min(i, 10), maxBackoff)
			if wait > most || wait < most*3/4 {
				t.Errorf("wait %d: got %s, want %s to %s", i, wait, most*3/4, most)
			}
		}
		if n := len(s.at); n < 24*12 || n > 24*16+10 {
			t.Errorf("got %d fetches in a day, want one in about five minutes", n)
		}
		if warns, infos := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO"); warns != 1 || infos != 1 {
			t.Errorf("got %d warnings and %d notes, want one each:\n%s", warns, infos, &log)
		}
	})
}

// What could not be done with a head is tried again, though it is the same.
func TestRunTriesAHeadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newLoop(&log)
		s := &script{begin: time.Now(), answers: func(int) (string, error) { return "a", nil }}
		tries := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- f.run(ctx, s.fetch, func(context.Context, string) error {
				if tries++; tries < 3 {
					return errors.New("coordinator is away")
				}
				return nil
			})
		}()
		time.Sleep(time.Hour)
		cancel()
		<-done
		if tries != 3 {
			t.Errorf("got %d calls, want 3", tries)
		}
	})
}
