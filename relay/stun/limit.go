package stun

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// buckets is how many rates are kept: half a MiB. Spread over so many, the
// 20,000 forged requests a second that all sources may make leave each source
// nearly all of its own rate.
const buckets = 1 << 16

// A limiter decides whether one more request may be answered.
//
// A bucket is one number, the time until which the past has used up what it may
// (the generic cell rate algorithm): each request adds 1/rate to it, and is too
// many when that leads more than burst/rate into the future. A bucket untouched
// for that long is as good as new, and so nothing needs to be cleaned up.
type limiter struct {
	// set at construction
	seed   maphash.Seed
	source quota // of one source
	all    quota

	// guarded by mu
	mu     sync.Mutex
	used   [buckets]time.Duration
	usedUp time.Duration // of all
}

// A quota is a rate in the form the buckets need.
type quota struct {
	each  time.Duration // 1/rate
	ahead time.Duration // (burst-1)/rate
}

func newQuota(rate, burst int) quota {
	each := time.Second / time.Duration(rate)
	return quota{each, each * time.Duration(burst-1)}
}

// take is the bucket after one more request, and whether that may be.
func (q quota) take(used, now time.Duration) (time.Duration, bool) {
	used = max(used, now)
	return used + q.each, used-now <= q.ahead
}

// allow counts a request in, or says why it is one too many. A request that the
// source's own rate refuses does not count among all.
func (l *limiter) allow(from netip.Addr, now time.Duration) (why Drop, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &l.used[maphash.Comparable(l.seed, sourceOf(from))%buckets]
	used, ok := l.source.take(*b, now)
	if !ok {
		return SourceRate, false
	}
	all, ok := l.all.take(l.usedUp, now)
	if !ok {
		return Rate, false
	}
	*b, l.usedUp = used, all
	return 0, true
}

// sourceOf is what one customer has: an IPv4 address or an IPv6 /64.
func sourceOf(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip
	}
	b := ip.As16()
	clear(b[8:])
	return netip.AddrFrom16(b)
}
