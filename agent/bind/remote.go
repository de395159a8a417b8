package bind

import (
	"net/netip"
	"sync/atomic"
)

// heardLength is how many addresses that nobody learned are remembered for their
// source address: enough for the answers to every probe that is under way, and
// 256 × 300 bytes at most of what a flood of forged packets can occupy.
const heardLength = 256

// A remote is an address that packets go to or come from. It is in the book
// while it is learned, in use, or among the last that were heard.
type remote struct {
	addr netip.AddrPort // plain

	// guarded by Bind.mu
	peer  *peer // whose packets come from it; nil: nobody is known at it
	uses  int   // routes that lead to it
	heard bool  // in book.heard

	// local is where the last packet from there came to; nil: there was none, or
	// the system does not say.
	local atomic.Pointer[local]
}

// unmapped is addr, never as IPv4 within IPv6.
func unmapped(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

// plain is addr as the sockets know it. An address with a zone is none: the
// interface that a zone names may be another one tomorrow.
func plain(addr netip.AddrPort) netip.AddrPort {
	if addr.Addr().Zone() != "" || addr.Port() == 0 {
		return netip.AddrPort{}
	}
	return unmapped(addr)
}

// note remembers the local address that a packet from r came to.
func (r *remote) note(to local) {
	if was := r.local.Load(); to.addr.IsValid() && (was == nil || *was != to) {
		now := to // allocated here, and not with each packet that changes nothing
		r.local.Store(&now)
	}
}

// A book is every remote there is. Bind.mu guards it.
type book struct {
	byAddr map[netip.AddrPort]*remote

	// heard is a ring of the addresses of remotes whose heard is set; next is
	// the oldest.
	heard [heardLength]netip.AddrPort
	next  int

	// generation grows when packets from some address become another Endpoint's.
	// It is written with Bind.mu held and read without.
	generation atomic.Uint64
}

func (k *book) init() { k.byAddr = make(map[netip.AddrPort]*remote) }

func (k *book) changed() { k.generation.Add(1) }

// remote is the one for addr, which is plain, made if there is none. The caller
// says what it is for before it lets go of the lock.
func (k *book) remote(addr netip.AddrPort) *remote {
	r := k.byAddr[addr]
	if r == nil {
		r = &remote{addr: addr}
		k.byAddr[addr] = r
	}
	return r
}

// prune drops r if it is for nothing.
func (k *book) prune(r *remote) {
	if r.peer == nil && r.uses == 0 && !r.heard {
		delete(k.byAddr, r.addr)
	}
}

// hear makes addr one of the last that were heard.
func (k *book) hear(addr netip.AddrPort) *remote {
	r := k.remote(addr)
	if r.heard {
		return r
	}
	if old := k.byAddr[k.heard[k.next]]; old != nil {
		old.heard = false
		k.prune(old)
	}
	r.heard = true
	k.heard[k.next] = addr
	k.next = (k.next + 1) % len(k.heard)
	return r
}

// heard remembers where a packet of the path engine came to, so that its answer
// leaves from there.
func (b *Bind) heard(from *origin) {
	addr := plain(from.addr)
	if !addr.IsValid() || !from.to.addr.IsValid() {
		return
	}
	b.mu.RLock()
	r := b.book.byAddr[addr]
	b.mu.RUnlock()
	if r == nil {
		b.mu.Lock()
		r = b.book.hear(addr)
		b.mu.Unlock()
	}
	r.note(from.to)
}

// ClearSources forgets which local addresses packets came to: the kernel chooses
// again. It is called when the network changed.
func (b *Bind) ClearSources() {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, r := range b.book.byAddr {
		r.local.Store(nil)
	}
}
