package client_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

// Everything here runs in a synctest bubble over connections in memory: minutes
// pass in no time, and delays are exact.

func packet(n int) []byte {
	p := make([]byte, n)
	p[0] = 4
	return p
}

func admitted(r *relaytest.Relay) key.IdentityPrivate {
	id := key.NewIdentity()
	r.Admit(id.Public())
	return id
}

func phase(p client.Phase) func(client.State) bool {
	return func(s client.State) bool { return s.Phase == p }
}

func TestConfigIsChecked(t *testing.T) {
	good := client.Config{Addr: "relay:443", Pin: key.NewIdentity().Public(), Identity: key.NewIdentity(),
		Papers: func() []byte { return nil }, Receive: func(key.NodeID, []byte) {}}
	if _, err := client.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*client.Config){
		"no port":     func(c *client.Config) { c.Addr = "relay" },
		"no pin":      func(c *client.Config) { c.Pin = key.IdentityPublic{} },
		"no identity": func(c *client.Config) { c.Identity = key.IdentityPrivate{} },
		"no papers":   func(c *client.Config) { c.Papers = nil },
		"no receive":  func(c *client.Config) { c.Receive = nil },
	} {
		bad := good
		change(&bad)
		if _, err := client.New(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestWrongPinIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		cfg := r.Config(admitted(r))
		cfg.Pin = key.NewIdentity().Public()
		papers := false
		cfg.Papers = func() []byte { papers = true; return []byte("secret") }
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		relaytest.Run(t, c)
		s := relaytest.WaitFor(t, c, phase(client.Waiting))
		var pin *tlskey.PinError
		if !errors.As(s.LastError, &pin) || !pin.Got.Equal(r.Key()) {
			t.Errorf("got %v, want a PinError naming %v", s.LastError, r.Key())
		}
		synctest.Wait()
		if !papers || r.Metric("writ_relay_failed_connections_total", "tls") != 1 {
			t.Error("the relay got further than TLS")
		}
	})
}

func TestSendWhileNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		c, err := client.New(r.Config(admitted(r)))
		if err != nil {
			t.Fatal(err)
		}
		dst := key.NewIdentity().Public().NodeID()
		if err := c.Send(dst, packet(64)); !errors.Is(err, client.ErrNotConnected) {
			t.Errorf("before Run: got %v, want ErrNotConnected", err)
		}
		stop := relaytest.Run(t, c)
		relaytest.WaitFor(t, c, phase(client.Connected))
		if err := c.Send(dst, packet(64)); err != nil {
			t.Errorf("connected: %v", err)
		}
		if err := c.Send(dst, []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")); !errors.Is(err, client.ErrNotPacket) {
			t.Errorf("not a packet: got %v, want ErrNotPacket", err)
		}
		if err := c.Send(dst, packet(frame.MaxPacket+1)); !errors.Is(err, client.ErrNotPacket) {
			t.Errorf("too long: got %v, want ErrNotPacket", err)
		}
		if err := c.Run(t.Context()); err == nil {
			t.Error("a Client runs twice at once")
		}
		stop()
		if err := c.Send(dst, packet(64)); !errors.Is(err, client.ErrNotConnected) {
			t.Errorf("after Run: got %v, want ErrNotConnected", err)
		}
		if s := c.State(); s.Phase != client.Idle || s.Sent != 1 || s.SentBytes != 64 || s.Connects != 1 {
			t.Errorf("state %+v, want idle, 1 packet of 64 bytes, 1 connection", s)
		}
	})
}

// TestGoneAndUntil: what the relay says arrives at the callbacks and in State.
func TestGoneAndUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		id := key.NewIdentity()
		until := time.Now().Add(time.Hour)
		r.AdmitUntil(until, id.Public())
		cfg := r.Config(id)
		gone := make(chan key.NodeID, 1)
		cfg.Gone = func(n key.NodeID) { gone <- n }
		c := relaytest.Connect(t, cfg)
		if s := c.State(); s.Until.Unix() != until.Unix() || !s.Relay.Equal(r.Key()) || s.Addr != r.Addr() {
			t.Errorf("state %+v, want until %v at %v %v", s, until, r.Addr(), r.Key())
		}
		absent := key.NewIdentity().Public().NodeID()
		if err := c.Send(absent, packet(64)); err != nil {
			t.Fatal(err)
		}
		if got := <-gone; got != absent {
			t.Errorf("gone: got %v, want %v", got, absent)
		}

		// The admission is renewed: new papers, and the end moves.
		later := until.Add(time.Hour)
		r.AdmitUntil(later, id.Public())
		c.PapersChanged()
		relaytest.WaitFor(t, c, func(s client.State) bool { return s.Until.Unix() == later.Unix() })
		if s := c.State(); s.Connects != 1 {
			t.Errorf("%d connections, want 1: papers are renewed in place", s.Connects)
		}
		// It ends on time.
		time.Sleep(time.Until(later) - time.Second)
		synctest.Wait()
		if s := c.State(); s.Phase != client.Connected {
			t.Errorf("a second before the end: %v, %v", s.Phase, s.LastError)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s := c.State()
		var refusal *frame.Refusal
		if !errors.As(s.LastError, &refusal) || refusal.Kind != frame.Ended || s.Phase != client.Waiting {
			t.Errorf("after the end: %v, %v; want ended", s.Phase, s.LastError)
		}
		// New papers end the wait at once.
		r.Admit(id.Public())
		c.PapersChanged()
		began := time.Now()
		relaytest.WaitFor(t, c, phase(client.Connected))
		if d := time.Since(began); d > 0 {
			t.Errorf("connected %v after new papers, want at once", d)
		}
	})
}

// TestBlackholeWhileSending: a relay that swallows packets is found within
// three seconds of the first.
func TestBlackholeWhileSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		c := relaytest.Connect(t, r.Config(admitted(r)))
		dst := key.NewIdentity().Public().NodeID()
		time.Sleep(47 * time.Second) // long idle: pings in between
		synctest.Wait()
		if s := c.State(); s.Phase != client.Connected || s.Connects != 1 {
			t.Fatalf("after a minute idle: %v, %v", s.Phase, s.LastError)
		}
		r.Blackhole(true)
		began := time.Now()
		if err := c.Send(dst, packet(64)); err != nil {
			t.Fatal(err)
		}
		relaytest.WaitFor(t, c, phase(client.Waiting))
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("noticed after %v, want 3 s", d)
		}
		time.Sleep(time.Minute)
		r.Blackhole(false)
		c.Kick()
		relaytest.WaitFor(t, c, phase(client.Connected))
	})
}

func TestBlackholeWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		c := relaytest.Connect(t, r.Config(admitted(r)))
		r.Blackhole(true)
		began := time.Now()
		changed := c.Changed()
		<-changed
		if d := time.Since(began); d > 35*time.Second || d < 30*time.Second {
			t.Errorf("noticed after %v, want 35 s", d)
		}
		r.Blackhole(false)
		c.Kick()
		relaytest.WaitFor(t, c, phase(client.Connected))

		// A network that has changed is tried at once.
		r.Blackhole(true)
		began = time.Now()
		c.Kick()
		relaytest.WaitFor(t, c, phase(client.Waiting))
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("after a kick: noticed after %v, want 2 s", d)
		}
	})
}

// A connection from an address that the machine no longer has is dead, though
// nothing says so: a node that moved connects from where it is at once.
func TestKickAfterAMove(t *testing.T) {
	r := relaytest.New(t)
	cfg := r.Config(admitted(r))
	var moved atomic.Bool
	cfg.Addrs = func() ([]net.Addr, error) {
		if moved.Load() {
			return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)}}, nil
		}
		return net.InterfaceAddrs()
	}
	c := relaytest.Connect(t, cfg)
	c.Kick()
	moved.Store(true)
	c.Kick()
	s := relaytest.WaitFor(t, c, func(s client.State) bool { return s.Connects == 2 && s.Phase == client.Connected })
	if s.LastError == nil || !strings.Contains(s.LastError.Error(), "is gone") {
		t.Errorf("got %v, want that the address is gone", s.LastError)
	}
}

// TestOneWayTrafficKeepsTheConnection: nothing comes back but pongs.
func TestOneWayTrafficKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		a, b := admitted(r), admitted(r)
		var got atomic.Int64
		cfg := r.Config(b)
		cfg.Receive = func(key.NodeID, []byte) { got.Add(1) }
		relaytest.Connect(t, cfg)
		c := relaytest.Connect(t, r.Config(a))
		const n = 3000
		for range n {
			if err := c.Send(b.Public().NodeID(), packet(1000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		synctest.Wait()
		if s := c.State(); s.Connects != 1 || s.Phase != client.Connected {
			t.Errorf("%d connections, %v, %v; want 1", s.Connects, s.Phase, s.LastError)
		}
		if got.Load() != n {
			t.Errorf("%d of %d packets arrived", got.Load(), n)
		}
	})
}

// TestHearingKeepsTheConnection: a client that has nothing to send and hears
// more often than it would ping an idle relay is not taken for dead.
func TestHearingKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		a, b := admitted(r), admitted(r)
		var got atomic.Int64
		cfg := r.Config(b)
		cfg.Receive = func(key.NodeID, []byte) { got.Add(1) }
		hears := relaytest.Connect(t, cfg)
		speaks := relaytest.Connect(t, r.Config(a))
		const n = 60
		// Off the seconds at which pings are due: what arrives at the very
		// nanosecond of a ping is no answer to it, and outside of virtual time
		// nothing does.
		time.Sleep(1300 * time.Millisecond)
		for range n { // five minutes; the relay gives a silent node 100 s
			if err := speaks.Send(b.Public().NodeID(), packet(1000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		synctest.Wait()
		if s := hears.State(); s.Connects != 1 || s.Phase != client.Connected || s.Sent != 0 {
			t.Errorf("%d connections, %v, %v, %d packets sent; want 1 connection, connected, and none", s.Connects, s.Phase, s.LastError, s.Sent)
		}
		if got.Load() != n {
			t.Errorf("%d of %d packets arrived", got.Load(), n)
		}
	})
}

// TestDelaysGrowAndBeginAnew: attempts at a relay that is down get rarer, to
// one in 15 to 30 seconds; after a connection that lasted they begin anew.
func TestDelaysGrowAndBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		cfg := r.Config(admitted(r))
		var dials []time.Time
		dial := cfg.Dial
		cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials = append(dials, time.Now())
			return dial(ctx, network, addr)
		}
		cfg.Log = nil
		c := relaytest.Connect(t, cfg)
		time.Sleep(time.Minute)
		r.Kill()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		bound := 50 * time.Millisecond
		for i := 2; i < len(dials); i++ {
			if gap := dials[i].Sub(dials[i-1]); gap > 30*time.Second || gap < bound/2 && i > 2 {
				t.Errorf("attempt %d came %v after the one before; want at least %v", i, gap, bound/2)
			}
			bound = min(2*bound, 30*time.Second)
		}
		// 10 minutes are 20 to 40 delays of the largest kind, and 9 smaller.
		if n := len(dials); n < 25 || n > 55 {
			t.Errorf("%d attempts in ten minutes, want about 35", n)
		}
		r.Start()
		c.Kick() // whatever the delay is
		relaytest.WaitFor(t, c, phase(client.Connected))
		time.Sleep(time.Minute)
		r.Kill()
		r.Start()
		began := time.Now()
		relaytest.WaitFor(t, c, func(s client.State) bool { return s.Connects == 3 })
		if d := time.Since(began); d > time.Second {
			t.Errorf("connected %v after a restart, want soon", d)
		}
	})
}

// TestRefusalsSetThePace: how soon a client comes back depends on why it was
// refused.
func TestRefusalsSetThePace(t *testing.T) {
	for _, c := range []struct {
		kind     frame.Kind
		min, max time.Duration
	}{
		{frame.NotReady, 250 * time.Millisecond, 500 * time.Millisecond},
		{frame.NotAdmitted, time.Second, 2 * time.Second},
		{frame.Revoked, 15 * time.Second, 30 * time.Second},
		{frame.Ended, 15 * time.Second, 30 * time.Second},
		{frame.Replaced, 15 * time.Second, 30 * time.Second},
		{frame.Busy, 500 * time.Millisecond, time.Second},
		{frame.Kind(99), 500 * time.Millisecond, time.Second}, // of a relay of the future
	} {
		synctest.Test(t, func(t *testing.T) {
			r := relaytest.NewInMemory(t)
			id := key.NewIdentity()
			r.Refuse(c.kind, id.Public())
			cfg := r.Config(id)
			cfg.Log = nil
			cl, err := client.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			relaytest.Run(t, cl)
			s := relaytest.WaitFor(t, cl, phase(client.Waiting))
			if d := time.Until(s.Retry); d < c.min || d > c.max {
				t.Errorf("%v: again after %v, want %v to %v", c.kind, d, c.min, c.max)
			}
			began := time.Now()
			r.Admit(id.Public())
			cl.Kick()
			relaytest.WaitFor(t, cl, phase(client.Connected))
			if d := time.Since(began); d != 0 {
				t.Errorf("%v: connected %v after a kick, want at once", c.kind, d)
			}
		})
	}
}

// TestDrainMovesOn: a client that is asked to leave is back at the restarted
// relay without the delay of a failure, and says meanwhile that it drains.
func TestDrainMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		c := relaytest.Connect(t, r.Config(admitted(r)))
		changed := c.Changed()
		began := time.Now()
		go func() {
			r.Stop()
			r.Start()
		}()
		<-changed
		if s := c.State(); !s.Draining || s.Phase != client.Connected {
			t.Errorf("first change: %+v, want draining", s)
		}
		relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Connected && s.Connects == 2 })
		// 50 ms to leave, and at most two short delays while the relay starts.
		if d := time.Since(began); d > 250*time.Millisecond {
			t.Errorf("back after %v, want at most 250 ms", d)
		}
		if s := c.State(); s.Draining {
			t.Error("the new connection drains")
		}
	})
}

// TestFloodIsDroppedHere: a sender that outruns the connection is told, and
// loses its own oldest packets.
func TestFloodIsDroppedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		c := relaytest.Connect(t, r.Config(admitted(r)))
		dst := key.NewIdentity().Public().NodeID()
		full, n := 0, 0
		for ; full < 10 && n < 100_000; n++ {
			switch err := c.Send(dst, packet(9000)); {
			case errors.Is(err, client.ErrFull):
				full++
			case err != nil:
				t.Fatal(err)
			}
		}
		if full < 10 {
			t.Fatalf("%d packets of 9000 bytes were never too many", n)
		}
		synctest.Wait()
		if s := c.State(); s.DroppedFull < 10 || s.Sent != uint64(n) {
			t.Errorf("%d counted as dropped, %d as sent; want 10 and %d", s.DroppedFull, s.Sent, n)
		}
	})
}

// TestSilenceAtEachPhase: an address that accepts and says nothing costs five
// seconds a phase.
func TestSilenceAtEachPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relaytest.NewInMemory(t)
		r.Blackhole(true)
		c, err := client.New(r.Config(admitted(r)))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		relaytest.Run(t, c)
		s := relaytest.WaitFor(t, c, phase(client.Waiting))
		var timeout net.Error
		if d := time.Since(began); d != 5*time.Second || !errors.As(s.LastError, &timeout) || !timeout.Timeout() {
			t.Errorf("after %v: %v; want a timeout after 5 s", d, s.LastError)
		}
		// The end of the context does not wait for a phase.
		r.Blackhole(true)
		ctx, cancel := context.WithCancel(t.Context())
		c2, err := client.New(r.Config(admitted(r)))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		if err := c2.Run(ctx); !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
			t.Errorf("Run returned %v after %v, want canceled after 1 s", err, time.Since(began))
		}
	})
}

func TestSendDoesNotAllocate(t *testing.T) {
	r := relaytest.New(t)
	a, b := admitted(r), admitted(r)
	relaytest.Connect(t, r.Config(b))
	c := relaytest.Connect(t, r.Config(a))
	p, dst := packet(1452), b.Public().NodeID()
	for range 1000 { // fill the pools
		c.Send(dst, p)
	}
	// One in a few hundred sends meets a pool that the collector has emptied.
	if n := testing.AllocsPerRun(2000, func() { c.Send(dst, p) }); n > 0 && !raceEnabled {
		t.Errorf("%v allocations per packet, want 0", n)
	}
}
