package filter

import (
	"sync/atomic"

	"github.com/writmesh/writ/agent/packet"
	"github.com/writmesh/writ/coordinator/acl"
)

// A limiter lets a burst of events through and then a steady rate: the generic
// cell rate algorithm in one word.
type limiter struct{ due atomic.Int64 } // when the burst is whole again

const (
	answerEvery = 1e9 / 64 // ns: a person sees every refusal, a flood earns little
	answerBurst = 64
)

func (l *limiter) allow(now int64) bool {
	due := l.due.Load()
	from := max(due, now)
	if from-now > answerEvery*(answerBurst-1) {
		// A clock that went back must not silence the limiter for long.
		if from-now > answerEvery*answerBurst {
			l.due.CompareAndSwap(due, now)
		}
		return false
	}
	return l.due.CompareAndSwap(due, from+answerEvery)
}

// answer tells the sender of a refused packet: a reset for TCP, else an ICMP
// error. Only a peer's or this node's own address is answered, and never a
// reset or an ICMP error (RFC 1122 section 3.2.2).
func (f *Filter) answer(q *query, b []byte, v Verdict) {
	switch v.Reason {
	case NoGrant, Ended, FlowCut, NoFlow:
	case NotAPeer:
		if q.dir == In {
			return
		}
	default:
		return
	}
	if f.reset == nil || f.silent && v.Reason != FlowCut {
		return
	}
	p := &q.p
	isICMP := p.Proto == acl.ICMP || p.Proto == acl.ICMPv6
	if q.kind == kindTCPReset || isICMP && p.ICMP() != packet.ICMPEchoRequest {
		return
	}
	limit := &f.toLocal
	if q.dir == In {
		if q.peer == nil {
			return
		}
		limit = &q.peer.answers
	}
	if !limit.allow(q.now) {
		return
	}
	buf := f.buffers.Get().(*[packet.MaxBuilt]byte)
	defer f.buffers.Put(buf)
	if p.Proto == acl.TCP {
		f.send(q.dir.reverse(), packet.AppendSegment(buf[:0], p.Refuse()))
	} else {
		f.send(q.dir.reverse(), packet.AppendProhibited(buf[:0], p, b))
	}
}

func (f *Filter) send(dir Direction, pkt []byte) {
	f.answered.Add(1)
	f.reset(dir, pkt)
}
