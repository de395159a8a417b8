package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// minIdle is the least Config.Idle. A session lives for three minutes after its
// handshake, so that when a peer is removed for want of packets the other side
// has no session either, and begins with a handshake.
const minIdle = device.RejectAfterTime

// ErrNotPeer is the answer of Configure for a node that SetPeers did not declare.
var ErrNotPeer = errors.New("not a peer")

// Configure makes WireGuard ready for packets of a declared peer, if it is not:
// the Bind reported one from a node that WireGuard does not know. When it returns
// nil the packet can be delivered again.
//
// Who the packet is from is a claim: whoever can speak to the Bind in a peer's
// name makes WireGuard know the peer, which costs 35 kB until the idle time is
// over, and nothing else.
//
// It waits for locks that WireGuard's goroutines hold while they call In, Out and
// the Bind; so it must not be called from there, nor from a receive function.
func (t *Tunnel) Configure(id key.NodeID) error {
	t.peers.mu.Lock()
	defer t.peers.mu.Unlock()
	m := t.peers.known[id]
	if m == nil {
		return fmt.Errorf("configure %s: %w", id.Short(), ErrNotPeer)
	}
	if err := t.configure([]*member{m}); err != nil {
		return fmt.Errorf("configure %s: %w", id.Short(), err)
	}
	return nil
}

// Handshake makes WireGuard ready as Configure does, and has it begin a session
// with the peer if it has none; if it has one, that carries an empty packet.
//
// It is for a node that was restarted: a peer whose session it had goes on using
// that for 15 seconds, in which nothing it sends can be read, if this node has
// nothing to send to it. What Configure waits for, this does too.
func (t *Tunnel) Handshake(id key.NodeID) error {
	t.peers.mu.Lock()
	defer t.peers.mu.Unlock()
	m := t.peers.known[id]
	if m == nil {
		return fmt.Errorf("begin a session with %s: %w", id.Short(), ErrNotPeer)
	}
	if err := t.configure([]*member{m}); err != nil {
		return fmt.Errorf("begin a session with %s: %w", id.Short(), err)
	}
	if peer := t.dev.LookupPeer(m.peer.Key.Bytes()); peer != nil {
		peer.SendKeepalive()
	}
	return nil
}

// configure tells WireGuard of members, those that it does not know. The peers'
// lock is held.
func (t *Tunnel) configure(members []*member) error {
	var config strings.Builder
	var added []*member
	for _, m := range members {
		if t.peers.known[m.id] != m || m.configured.Load() {
			continue
		}
		t.bind.add(m)
		writePeer(&config, m.peer)
		added = append(added, m)
	}
	defer t.tap.wake()
	if len(added) == 0 {
		return nil
	}
	now := time.Now()
	if err := t.dev.IpcSet(config.String()); err != nil {
		// Only these may be there in part.
		config.Reset()
		for _, m := range added {
			fmt.Fprintf(&config, "public_key=%s\nremove=true\n", m.peer.Key.Hex())
			t.bind.remove(m)
			m.failed.Store(true)
		}
		return errors.Join(err, t.dev.IpcSet(config.String()))
	}
	for _, m := range added {
		t.introduce(m)
		m.lastActive = now
		m.configured.Store(true)
	}
	return nil
}

// answer configures the members that Read calls for, until ctx ends.
func (t *Tunnel) answer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.tap.calls.called:
			t.peers.mu.Lock()
			err := t.configure(t.tap.calls.take())
			t.peers.mu.Unlock()
			if err != nil && t.log != nil {
				t.log.Error("WireGuard does not take a peer", "err", err)
			}
		}
	}
}

// watch sweeps until ctx ends, eight times in the idle time.
func (t *Tunnel) watch(ctx context.Context) {
	ticker := time.NewTicker(t.idle / 8)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			t.sweep(now)
		}
	}
}

// sweep takes from WireGuard the members that had no packet for the idle time.
func (t *Tunnel) sweep(now time.Time) {
	s := &t.peers
	s.mu.Lock()
	defer s.mu.Unlock()
	var idle []*member
	for _, m := range s.known {
		switch {
		case m.pinned || !m.configured.Load():
			continue
		case m.active.Swap(false):
			m.lastActive = now
			continue
		case now.Sub(m.lastActive) < t.idle:
			continue
		}
		// A packet that Read passes from here on is held instead; one that it
		// passed a moment ago shows in active, see member.ready.
		m.configured.Store(false)
		if m.active.Load() {
			m.configured.Store(true)
			t.tap.wake()
			continue
		}
		idle = append(idle, m)
	}
	if len(idle) == 0 {
		return
	}
	counted, err := t.counted()
	if err != nil && t.log != nil {
		t.log.Debug("the counts of idle peers are lost", "err", err)
	}
	var config strings.Builder
	for _, m := range idle {
		m.base = m.base.plus(counted[m.id])
		fmt.Fprintf(&config, "public_key=%s\nremove=true\n", m.peer.Key.Hex())
	}
	if err := t.dev.IpcSet(config.String()); err != nil {
		t.removeAll()
		return
	}
	for _, m := range idle {
		t.part(m)
		t.bind.remove(m)
		if t.forget != nil {
			t.forget(m.id)
		}
	}
}
