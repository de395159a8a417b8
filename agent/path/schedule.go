package path

import (
	"container/heap"
	"time"
)

// A schedule orders the peers that wait for a time by that time; among equals,
// the one that was made first comes first. A peer is in it at most once, and a
// sleeping peer is not in it.
type schedule []*peer

func (s schedule) Len() int { return len(s) }

func (s schedule) Less(i, j int) bool {
	if !s[i].deadline.Equal(s[j].deadline) {
		return s[i].deadline.Before(s[j].deadline)
	}
	return s[i].serial < s[j].serial
}

func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].slot, s[j].slot = i, j
}

func (s *schedule) Push(x any) {
	p := x.(*peer)
	p.slot = len(*s)
	*s = append(*s, p)
}

func (s *schedule) Pop() any {
	old := *s
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	p.slot = -1
	return p
}

// set has p wait for t; a zero t takes it out.
func (s *schedule) set(p *peer, t time.Time) {
	p.deadline = t
	switch {
	case t.IsZero() && p.slot >= 0:
		heap.Remove(s, p.slot)
	case t.IsZero():
	case p.slot >= 0:
		heap.Fix(s, p.slot)
	default:
		heap.Push(s, p)
	}
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
