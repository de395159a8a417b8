package tunnel

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

// A Peer is a node as WireGuard must know it.
type Peer struct {
	ID  key.NodeID
	Key key.WGPublic

	// Allowed are the addresses that may be the source of what comes from the
	// peer; what goes to one of them goes to the peer. Empty: none.
	Allowed []netip.Prefix
}

// PeerStats is what WireGuard counted for a peer, since SetPeers declared it.
type PeerStats struct {
	ID            key.NodeID
	LastHandshake time.Time // zero: none yet
	RxBytes       uint64
	TxBytes       uint64

	// Configured says that WireGuard knows the peer now. It counts nothing for
	// one that it does not know.
	Configured bool
}

// A peerSet is the peers that SetPeers declared.
type peerSet struct {
	mu    sync.Mutex
	known map[key.NodeID]*member // guarded by mu
}

func (s *peerSet) init() { s.known = make(map[key.NodeID]*member) }

// configured is what WireGuard was last told.
func (s *peerSet) configured() map[key.NodeID]Peer {
	all := make(map[key.NodeID]Peer)
	for id, m := range s.known {
		if m.configured.Load() {
			all[id] = m.peer
		}
	}
	return all
}

// SetPeers makes peers the tunnel's peers, all of them. It changes what differs
// from before and nothing else. A peer whose key changed loses its session; so
// does everything of a peer that is no longer there. An invalid set is refused
// whole, and changes nothing.
func (t *Tunnel) SetPeers(peers []Peer) error {
	next, err := t.checkPeers(peers)
	if err != nil {
		return fmt.Errorf("set peers: %w", err)
	}
	s := &t.peers
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-t.Done():
		return fmt.Errorf("set peers: %w", os.ErrClosed)
	default:
	}
	if s.equal(next) {
		return nil
	}
	was := s.configured()
	var gone []*member
	for id, m := range s.known {
		if _, stays := next[id]; !stays {
			gone = append(gone, m)
		}
	}
	known := make(map[key.NodeID]*member, len(next))
	for id, p := range next {
		m := s.known[id]
		if m == nil {
			m = &member{id: id, base: PeerStats{ID: id}}
		} else if !m.peer.Key.Equal(p.Key) {
			m.base = PeerStats{ID: id}
			t.tap.inGate.drop(&m.in)
			t.tap.outGate.drop(&m.out)
		}
		m.peer = p
		known[id] = m
	}
	table := newRoutes(known)
	will := make(map[key.NodeID]Peer, len(was))
	for id, m := range known {
		m.pinned = t.idle == 0 || table.shadowed(m)
		if m.pinned || m.configured.Load() {
			will[id] = m.peer
			t.bind.add(m)
		}
	}

	// From here on an address is its new member's. Until WireGuard knows that
	// too, what is sent to a member that is not configured waits.
	s.known = known
	t.tap.routes.Store(table)
	for _, m := range gone {
		m.gone.Store(true)
	}
	config := difference(was, will)
	if config != "" {
		if err := t.dev.IpcSet(config); err != nil {
			t.removeAll()
			return fmt.Errorf("set peers: removed them all: %w", err)
		}
	}
	now := time.Now()
	for id := range will {
		m := known[id]
		if p, stays := was[id]; !stays || !p.Key.Equal(m.peer.Key) {
			t.introduce(m)
		}
		if !m.configured.Load() {
			m.lastActive = now
			m.configured.Store(true)
		}
	}
	for _, m := range gone {
		t.part(m)
		t.bind.remove(m)
		if t.forget != nil {
			t.forget(m.id)
		}
	}
	t.tap.wake()
	return nil
}

// removeAll is for when what WireGuard applied of a change is not known: without
// peers nothing passes, and the next SetPeers starts afresh.
func (t *Tunnel) removeAll() {
	t.dev.RemoveAllPeers()
	t.tap.routes.Store(new(routes))
	for id, m := range t.peers.known {
		m.gone.Store(true)
		m.configured.Store(false)
		t.part(m)
		t.bind.remove(m)
		if t.forget != nil {
			t.forget(id)
		}
	}
	t.peers.init()
	t.tap.wake()
}

// equal reports whether next is what was declared.
func (s *peerSet) equal(next map[key.NodeID]Peer) bool {
	if len(next) != len(s.known) {
		return false
	}
	for id, p := range next {
		m := s.known[id]
		if m == nil || !m.peer.Key.Equal(p.Key) || !slices.Equal(m.peer.Allowed, p.Allowed) {
			return false
		}
	}
	return true
}

// checkPeers refuses what WireGuard would take and guess about.
func (t *Tunnel) checkPeers(peers []Peer) (map[key.NodeID]Peer, error) {
	if len(peers) > device.MaxPeers {
		return nil, fmt.Errorf("%d peers, limit %d", len(peers), device.MaxPeers)
	}
	next := make(map[key.NodeID]Peer, len(peers))
	keys := make(map[[32]byte]key.NodeID, len(peers))
	addrs := make(map[netip.Prefix]key.NodeID, 2*len(peers))
	for _, p := range peers {
		name := p.ID.Short()
		if p.ID.IsZero() {
			return nil, errors.New("a peer without id")
		}
		if _, twice := next[p.ID]; twice {
			return nil, fmt.Errorf("%s: listed twice", name)
		}
		if p.Key.IsZero() {
			return nil, fmt.Errorf("%s: no key", name)
		}
		if p.Key.Equal(t.public) {
			return nil, fmt.Errorf("%s: has this node's own key", name)
		}
		if other, twice := keys[p.Key.Bytes()]; twice {
			return nil, fmt.Errorf("%s: has the key of %s", name, other.Short())
		}
		keys[p.Key.Bytes()] = p.ID
		for _, a := range p.Allowed {
			if !a.IsValid() || a != a.Masked() || a.Addr().Is4In6() {
				return nil, fmt.Errorf("%s: address %s is not a prefix in its simplest form", name, a)
			}
			if other, twice := addrs[a]; twice {
				return nil, fmt.Errorf("%s: address %s is also of %s", name, a, other.Short())
			}
			addrs[a] = p.ID
		}
		p.Allowed = slices.Clone(p.Allowed)
		slices.SortFunc(p.Allowed, comparePrefixes)
		next[p.ID] = p
	}
	return next, nil
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// difference writes, in WireGuard's configuration protocol, what turns old into
// next. The order is what makes an address
// move at once: WireGuard gives an address to its new peer when it is told of
// it, taking it from the old one, so new addresses come before removals.
//
//  1. remove the peers whose key another node has now: WireGuard knows a peer by
//     its key, and must not let one node continue the other's session
//  2. add new peers, and new addresses of old ones
//  3. remove what is left of old addresses and of old peers
func difference(old, next map[key.NodeID]Peer) string {
	holder := make(map[[32]byte]key.NodeID, len(next))
	for id, p := range next {
		holder[p.Key.Bytes()] = id
	}
	var passed, added, removed strings.Builder
	for _, id := range sortedIDs(old) {
		was := old[id]
		now, stays := next[id]
		if stays && now.Key.Equal(was.Key) {
			continue
		}
		to := &removed
		if _, taken := holder[was.Key.Bytes()]; taken {
			to = &passed
		}
		fmt.Fprintf(to, "public_key=%s\nremove=true\n", was.Key.Hex())
	}
	for _, id := range sortedIDs(next) {
		now := next[id]
		was, existed := old[id]
		if !existed || !now.Key.Equal(was.Key) {
			writePeer(&added, now)
			continue
		}
		describe(&added, now, "allowed_ip=", now.Allowed, was.Allowed)
		describe(&removed, now, "allowed_ip=-", was.Allowed, now.Allowed)
	}
	return passed.String() + added.String() + removed.String()
}

// writePeer writes all there is to know of a new peer.
func writePeer(w *strings.Builder, p Peer) {
	fmt.Fprintf(w, "public_key=%s\nendpoint=%s\n", p.Key.Hex(), p.ID)
	for _, a := range p.Allowed {
		fmt.Fprintf(w, "allowed_ip=%s\n", a)
	}
}

// describe writes a line for each of a that is not in b. Both are sorted.
func describe(w *strings.Builder, p Peer, line string, a, b []netip.Prefix) {
	named := false
	for _, x := range a {
		if _, found := slices.BinarySearchFunc(b, x, comparePrefixes); found {
			continue
		}
		if !named {
			fmt.Fprintf(w, "public_key=%s\nupdate_only=true\n", p.Key.Hex())
			named = true
		}
		fmt.Fprintf(w, "%s%s\n", line, x)
	}
}

func sortedIDs(m map[key.NodeID]Peer) []key.NodeID {
	ids := make([]key.NodeID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b key.NodeID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// Stats are counts for every peer, in the order of their ids.
func (t *Tunnel) Stats() ([]PeerStats, error) {
	s := &t.peers
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := t.counted()
	if err != nil {
		return nil, fmt.Errorf("read peer statistics: %w", err)
	}
	all := make([]PeerStats, 0, len(s.known))
	for id, m := range s.known {
		p := m.base.plus(now[id])
		p.Configured = m.configured.Load()
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b PeerStats) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return all, nil
}

// plus is what was counted together with what is counted now.
func (p PeerStats) plus(now PeerStats) PeerStats {
	p.RxBytes += now.RxBytes
	p.TxBytes += now.TxBytes
	if now.LastHandshake.After(p.LastHandshake) {
		p.LastHandshake = now.LastHandshake
	}
	return p
}

// counted is what WireGuard counts, for every peer that it knows. The peers' lock
// is held.
func (t *Tunnel) counted() (map[key.NodeID]PeerStats, error) {
	byKey := make(map[string]key.NodeID, len(t.peers.known))
	for id, m := range t.peers.known {
		byKey[m.peer.Key.Hex()] = id
	}
	text, err := t.dev.IpcGet()
	if err != nil {
		return nil, err
	}
	stats, err := parseStats(text, byKey)
	if err != nil {
		return nil, err
	}
	counted := make(map[key.NodeID]PeerStats, len(stats))
	for _, p := range stats {
		counted[p.ID] = p
	}
	return counted, nil
}

// parseStats reads WireGuard's answer. A peer that is not in byKey came or went
// while it was written, and is left out.
func parseStats(text string, byKey map[string]key.NodeID) ([]PeerStats, error) {
	var all []PeerStats
	var sec, nsec int64
	var current *PeerStats
	end := func() {
		if current != nil && (sec != 0 || nsec != 0) {
			current.LastHandshake = time.Unix(sec, nsec)
		}
		sec, nsec = 0, 0
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "public_key" {
			end()
			current = nil
			if id, ok := byKey[value]; ok {
				all = append(all, PeerStats{ID: id})
				current = &all[len(all)-1]
			}
			continue
		}
		if current == nil {
			continue
		}
		var err error
		switch name {
		case "last_handshake_time_sec":
			sec, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nsec, err = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			current.RxBytes, err = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			current.TxBytes, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	end()
	slices.SortFunc(all, func(a, b PeerStats) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return all, nil
}
