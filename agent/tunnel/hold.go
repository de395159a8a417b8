package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

const (
	// maxHeld is how many packets wait for their peer to be configured, and
	// maxHeldBytes how many bytes for all peers. Configuring takes a tenth of a
	// millisecond; only a call of SetPeers that is at work makes it longer.
	maxHeld      = 64
	maxHeldBytes = 4 << 20

	// maxWaiting is how many packets go into WireGuard for a peer that never had
	// a session; after them one each trickle. WireGuard keeps 128 batches of them
	// until the handshake is done, at 64 KiB a packet: one dead peer that is sent
	// to in full batches would cost a gigabyte. The trickle makes sure that
	// handshakes go on being tried.
	maxWaiting = 64
	trickle    = 20 * time.Millisecond

	// maxStalled is the same for a peer whose packets came out once: it may be
	// only the processors that are busy.
	maxStalled = maxInFlight
)

// A member is a peer that SetPeers declared. WireGuard knows it only while it is
// configured.
//
//	          packet to it, Configure
//	declared ─────────────────────────► configured
//	         ◄─────────────────────────
//	          no packet for Config.Idle
type member struct {
	id key.NodeID // set at construction

	// guarded by peerSet.mu
	peer       Peer
	pinned     bool      // always configured
	base       PeerStats // counted in earlier configurations
	lastActive time.Time // when sweep last saw it active, or it was configured
	endpoint   conn.Endpoint
	known      *device.Peer // WireGuard's; nil: not configured

	configured atomic.Bool
	active     atomic.Bool // a packet went to or came from it, since the last sweep
	gone       atomic.Bool // SetPeers removed it, for good
	failed     atomic.Bool // it could not be configured: drop what is held

	in, out lane

	// owned by tap.Read
	held        [][]byte
	asked       bool // it is in the list of those to configure
	passing     int  // packets of the batch at work
	waiting     int  // packets that went in since the lane last moved
	lastTrickle time.Time
}

// A callList is the members that tap.Read wants configured.
type callList struct {
	mu     sync.Mutex
	list   []*member     // guarded by mu
	called chan struct{} // holds one token
}

func (c *callList) call(m *member) {
	c.mu.Lock()
	c.list = append(c.list, m)
	c.mu.Unlock()
	select {
	case c.called <- struct{}{}:
	default:
	}
}

func (c *callList) take() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	return list
}

// hold copies pkt for later, and asks for its member to be configured. It is
// called by Read only.
func (t *tap) hold(m *member, pkt []byte) {
	if len(m.held) >= maxHeld || t.heldBytes+len(pkt) > maxHeldBytes {
		t.heldFull.Add(1)
		return
	}
	if len(m.held) == 0 {
		t.holding = append(t.holding, m)
	}
	m.held = append(m.held, append([]byte(nil), pkt...))
	t.heldBytes += len(pkt)
	t.heldCount.Add(1)
	if !m.asked {
		m.asked = true
		t.calls.call(m)
	}
}

// release hands out what was held for members that are configured by now, and
// drops what was held for those that never will be. It is called by Read only.
func (t *tap) release(bufs [][]byte, sizes []int, offset int) (n int) {
	if !t.released.Swap(false) {
		return 0
	}
	kept := t.holding[:0]
	for _, m := range t.holding {
		switch {
		case m.gone.Load(), m.failed.Swap(false):
			t.heldLost.Add(uint64(len(m.held)))
			for _, pkt := range m.held {
				t.heldBytes -= len(pkt)
			}
			m.held, m.asked = nil, false
			continue
		case !m.configured.Load():
			kept = append(kept, m)
			continue
		}
		m.active.Store(true)
		k := min(len(m.held), len(bufs)-n)
		for _, pkt := range m.held[:k] {
			t.heldBytes -= len(pkt)
			sizes[n] = 0
			if len(pkt) <= len(bufs[n])-offset {
				sizes[n] = copy(bufs[n][offset:], pkt)
				t.pass(m)
			}
			n++
		}
		if m.held = m.held[k:]; len(m.held) > 0 {
			kept = append(kept, m)
			t.released.Store(true)
			continue
		}
		m.held, m.asked = nil, false
	}
	clear(t.holding[len(kept):])
	t.holding = kept
	return n
}

// wake makes Read look at what it holds.
func (t *tap) wake() {
	t.released.Store(true)
	t.source.Interrupt()
}
