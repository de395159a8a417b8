package server_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

// A listener is a client in a bubble, and what the relay told it, in order.
type listener struct {
	*client.Client
	stop func()
	told []string
	got  int // packets received
}

func listen(t *testing.T, r *relaytest.Relay, id key.IdentityPrivate) *listener {
	t.Helper()
	l := new(listener)
	cfg := r.Config(id)
	cfg.Log = nil
	cfg.Receive = func(key.NodeID, []byte) { l.got++ }
	cfg.Gone = func(n key.NodeID) { l.told = append(l.told, "gone "+n.Short()) }
	cfg.Here = func(n key.NodeID) { l.told = append(l.told, "here "+n.Short()) }
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Client, l.stop = c, relaytest.Run(t, c)
	relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Connected })
	return l
}

// send sends, and waits until everything that follows from it has happened.
func (l *listener) send(t *testing.T, dst key.IdentityPrivate, n int) {
	t.Helper()
	for range n {
		if err := l.Send(dst.Public().NodeID(), transport(1, 64)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// heard is what was told since heard was last called.
func (l *listener) heard() []string {
	synctest.Wait()
	told := l.told
	l.told = nil
	return told
}

func short(id key.IdentityPrivate) string { return id.Public().NodeID().Short() }

func TestHereIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		ids := members(r, 3)
		a, b := ids[0], ids[1]
		one, other := listen(t, r, a), listen(t, r, ids[2])
		expect := func(moment string, want ...string) {
			t.Helper()
			if got := one.heard(); !slices.Equal(got, want) {
				t.Errorf("%s: told %q, want %q", moment, got, want)
			}
		}
		gone, here := "gone "+short(b), "here "+short(b)

		one.send(t, b, 1)
		expect("a packet to a node that is not here", gone)
		time.Sleep(10 * time.Second)
		one.send(t, b, 2)
		expect("two more", gone, gone)
		if n := r.Metric("writ_relay_wishes"); n != 1 {
			t.Errorf("%v wishes, want 1", n)
		}
		came := listen(t, r, b)
		expect("it comes", here)
		one.send(t, b, 1)
		if expect("a packet to it"); came.got != 1 {
			t.Errorf("%d packets arrived, want 1", came.got)
		}
		came.stop()
		synctest.Wait()
		came = listen(t, r, b)
		expect("it leaves and comes, and nothing was sent")
		came.stop()
		synctest.Wait()
		one.send(t, b, 1)
		expect("it leaves, and a packet follows", gone)
		listen(t, r, b)
		expect("it comes again", here)
		if got := other.heard(); got != nil {
			t.Errorf("the one that sent nothing was told %q", got)
		}
		if n := r.Metric("writ_relay_here_notices_total"); n != 2 {
			t.Errorf("%v notices counted, want 2", n)
		}
	})
}

// TestHereEnds: 30 seconds after the last packet nobody is told any more, and
// the relay has forgotten.
func TestHereEnds(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{29 * time.Second, 1}, {31 * time.Second, 0}} {
		synctest.Test(t, func(t *testing.T) {
			r := relaytest.NewInMemory(t)
			ids := members(r, 2)
			one := listen(t, r, ids[0])
			one.send(t, ids[1], 1)
			time.Sleep(20 * time.Second)
			one.send(t, ids[1], 1) // from here on they count
			one.heard()
			time.Sleep(c.after)
			synctest.Wait()
			if n := r.Metric("writ_relay_wishes"); int(n) != c.want {
				t.Errorf("after %v: %v wishes held, want %d", c.after, n, c.want)
			}
			listen(t, r, ids[1])
			if got := one.heard(); len(got) != c.want {
				t.Errorf("after %v: told %q, want %d notices", c.after, got, c.want)
			}
		})
	}
}

// TestWishesAreBounded: a client that sends to whoever it makes up is remembered
// with the newest 64, and with none when it has left.
func TestWishesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		ids := members(r, 4)
		one := listen(t, r, ids[0])
		one.send(t, ids[1], 1)
		one.send(t, ids[2], 1)
		for range 63 {
			one.send(t, key.NewIdentity(), 1)
		}
		if n := r.Metric("writ_relay_wishes"); n != 64 {
			t.Errorf("%v wishes, want 64", n)
		}
		one.heard()
		listen(t, r, ids[1])
		listen(t, r, ids[2])
		if got, want := one.heard(), []string{"here " + short(ids[2])}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q: the oldest wish of 65 is forgotten", got, want)
		}
		for range 1000 {
			one.send(t, key.NewIdentity(), 1)
		}
		one.send(t, ids[3], 1)
		if n := r.Metric("writ_relay_wishes"); n != 64 {
			t.Errorf("%v wishes after a thousand more, want 64", n)
		}
		one.stop()
		synctest.Wait()
		if n := r.Metric("writ_relay_wishes"); n != 0 {
			t.Errorf("%v wishes of a client that has left, want 0", n)
		}
		listen(t, r, ids[3]) // finds nobody to tell
	})
}

// TestHereIsLimited: 64 at once, and no more until time has passed.
func TestHereIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		ids := members(r, 1+64+10)
		one := listen(t, r, ids[0])
		come := func(ids []key.IdentityPrivate) (heard int) {
			for _, id := range ids {
				one.send(t, id, 1)
			}
			one.heard()
			for _, id := range ids {
				listen(t, r, id)
			}
			return len(one.heard())
		}
		if got := come(ids[1:65]); got != 64 {
			t.Errorf("64 came at once: told of %d", got)
		}
		time.Sleep(250 * time.Millisecond) // five more
		if got := come(ids[65:]); got != 5 {
			t.Errorf("ten more a quarter second later: told of %d, want 5", got)
		}
		if n := r.Metric("writ_relay_dropped_total", "here_limited"); n != 5 {
			t.Errorf("%v notices counted as too many, want 5", n)
		}
	})
}

// TestHereIsSkippedByOlderNodes is a reader that knows the types of 2026-11
// only: the envelope is all it needs.
func TestHereIsSkippedByOlderNodes(t *testing.T) {
	b := frame.AppendHere(nil, key.NodeID{1})
	if b[0]&0x80 == 0 || fmt.Sprintf("%x", b[1:5]) != "00000020" || len(b) != 37 {
		t.Errorf("here is % x…, want a type with 0x80 and a length of 32", b[:5])
	}
}
