package natlab

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Reason says why a packet was not received.
type Reason string

const (
	Lost         Reason = "lost on the link"
	QueueFull    Reason = "queue of the link is full"
	TooBig       Reason = "over the MTU of the link"
	Blocked      Reason = "blocked"
	Down         Reason = "interface is down"
	NoRoute      Reason = "no route"
	HopLimit     Reason = "hop limit exceeded"
	UDPBlocked   Reason = "UDP is blocked"
	Unsolicited  Reason = "unsolicited: no mapping"
	Filtered     Reason = "filtered: nothing was sent to that remote by this mapping"
	NoHairpin    Reason = "no hairpinning"
	NoFreePort   Reason = "no free port for a mapping"
	NoSocket     Reason = "no socket on that port"
	BufferFull   Reason = "receive buffer is full"
	NotForwarded Reason = "router has no outer address of that family"
)

// A Drop says where packets ended, and why.
type Drop struct {
	Place  string // the name of a host or router
	Reason Reason
}

// logged is how many entries a log keeps. A pair of agents that probe for
// minutes writes a few thousand.
const logged = 16384

// An entry is one hop of a packet, or its end.
type entry struct {
	at       time.Time
	actor    int // index of the node at which it happened
	from, to string
	src, dst netip.AddrPort
	size     int
	what     string // what the payload is, as Describe has it
	note     string
	dropped  bool
}

type logbook struct {
	entries []entry // the newest, as a ring once it is full
	total   uint64  // written ever
	drops   map[Drop]int
}

func (b *logbook) add(e entry) {
	if len(b.entries) < logged {
		b.entries = append(b.entries, e)
	} else {
		b.entries[b.total%logged] = e
	}
	b.total++
}

// Drops returns how many packets ended where, and why.
func (n *Net) Drops() map[Drop]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.log.drops)
}

// Dropped returns how many packets ended for a reason, wherever.
func (n *Net) Dropped(why Reason) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for d, c := range n.log.drops {
		if d.Reason == why {
			count += c
		}
	}
	return count
}

// Describe sets what names payloads in the log, so that it can say "ping" where
// it otherwise has a size. It is called with the Net locked and must not call
// back. An empty answer means that it does not know.
func (n *Net) Describe(name func(payload []byte) string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.describe = name
}

// Log draws what happened, one line for each hop of a packet: when it arrived,
// from which node, at which, its source and destination as they were on that
// hop, and what the node it left had done with it. A packet that ends has a cross where it
// ends:
//
//	+0.006000  alice   ──▶ gateway  192.168.1.2:41641 → 203.0.113.1:3478   20 B
//	+0.016000  gateway ──▶ server   198.51.100.1:41641 → 203.0.113.1:3478  20 B  new mapping of 192.168.1.2:41641
//	+0.020000  gateway ──✗          192.0.2.7:9 → 198.51.100.1:41641       20 B  filtered: …
//
// Of a long run it has the end. The first line names the seed, and the last ones
// count the drops.
func (n *Net) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	entries := slices.Clone(n.log.entries)
	if n.log.total > logged {
		first := int(n.log.total % logged)
		entries = slices.Concat(entries[first:], entries[:first])
	}
	// What several nodes did at one instant stands in the order of the nodes,
	// whoever was scheduled first.
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.actor, b.actor))
	})
	var wide struct{ from, to, ends int }
	for _, e := range entries {
		wide.from = max(wide.from, len(e.from))
		wide.to = max(wide.to, len(e.to))
		wide.ends = max(wide.ends, len(e.src.String())+len(e.dst.String())+3)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "natlab: seed %d\n", n.seed)
	if n.log.total > logged {
		fmt.Fprintf(&b, "(%d earlier hops left out)\n", n.log.total-logged)
	}
	for _, e := range entries {
		arrow, what := "──▶", e.what
		if e.dropped {
			arrow = "──✗"
		}
		if what == "" {
			what = fmt.Sprintf("%d B", e.size)
		}
		line := fmt.Sprintf("%+11.6f  %-*s %s %-*s  %-*s  %s", e.at.Sub(n.start).Seconds(),
			wide.from, e.from, arrow, wide.to, e.to, wide.ends, e.src.String()+" → "+e.dst.String(), what)
		if e.note != "" {
			line += "  " + e.note
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	places := slices.SortedFunc(maps.Keys(n.log.drops), func(a, b Drop) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.Reason, b.Reason))
	})
	for _, d := range places {
		fmt.Fprintf(&b, "dropped at %s: %d × %s\n", d.Place, n.log.drops[d], d.Reason)
	}
	return b.String()
}
