// Package flowfile is the file in which an agent leaves the flows that its node
// began to the agent that comes after it, so that connections in the kernel
// survive a restart of the agent (package filter, "A restart").
//
// It is written every few seconds and at a clean end, and read once, before the
// tunnel is up. It is a state file of the kind "flows" (package
// coordinator/statefile: checksummed, replaced whole, 0600) in the node's state
// directory, and never leaves the machine.
//
// # Content
//
// Integers are big-endian.
//
//	version       1   1
//	network      32   the network's id
//	node         32   the node's own id
//	saved         8   when: milliseconds of the Unix epoch
//	boot          8   when: milliseconds since the machine started; 0 if the
//	                  system does not say
//	flows     n × 90  MaxFlows at most
//
// A flow:
//
//	peer         32   node id of the other end
//	local        16   address of this node; IPv4 as ::ffff:a.b.c.d
//	remote       16   address of the peer
//	local port    2   of a ping, its identifier
//	remote port   2
//	protocol      1   IANA's number
//	flags         1   below
//	left          4   milliseconds of silence until it expires
//	sent          8   of TCP: sequence number behind the last byte that this node
//	                  sent, and its last acknowledgement, 4 each
//	received      8   of TCP: the same of the peer
//
// The flags:
//
//	0x01   a ping
//	0x02   the peer sent something
//	0x04   of TCP: this node sent a segment
//	0x08   of TCP: and its last
//	0x10   of TCP: the peer sent a segment
//	0x20   of TCP: and its last
//
// # Time
//
// What a flow has left is counted from when it was saved, by whichever of two
// clocks went further since: the wall clock, and that of the machine's uptime,
// which nobody sets. A flow that has nothing left is passed over.
//
// # What a reader refuses
//
// The whole file: damage (package statefile); more than MaxSize bytes, unread;
// another version, network or node; a length that is no whole number of flows,
// or more than MaxFlows of them; a file saved longer ago than any flow lives, more
// than a minute ahead of the wall clock, or at an uptime that the machine has
// not reached (it was started anew, and with it all that had connections); and a
// flow with unknown flags, a last segment without a segment, numbers without a
// segment or of another protocol than TCP, addresses of two families or ::, or
// more left than filter.MaxLeft.
//
// Whether a flow may go on is not judged here: filter.Restore does.
package flowfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/statefile"
)

const (
	// Kind is the kind of the state file.
	Kind = "flows"

	// MaxFlows is how many flows a file holds at most: as many as a filter
	// knows by default.
	MaxFlows = filter.DefaultMaxFlows

	// MaxSize is the size of the largest file: its flows, and the two headers.
	MaxSize = MaxFlows*flowSize + headerSize + 256

	version    = 1
	headerSize = 1 + 32 + 32 + 8 + 8
	flowSize   = 32 + 16 + 16 + 2 + 2 + 1 + 1 + 4 + 8 + 8

	// ahead is how far the wall clock may have been set back since the file
	// was saved: more than a time server corrects in one step while it runs.
	ahead = time.Minute
)

const (
	flagEcho = 1 << iota
	flagAnswered
	flagSent
	flagSentFin
	flagReceived
	flagReceivedFin
	flags = iota // how many there are
)

// An Owner is whose flows they are.
type Owner struct {
	Network key.NetworkID
	Node    key.NodeID
}

// An Instant is a moment by two clocks.
type Instant struct {
	Wall time.Time
	Boot time.Duration // since the machine started; zero if the system does not say
}

// Now is this moment.
func Now() Instant { return Instant{Wall: time.Now(), Boot: uptime()} }

// Encode is the content that holds flows as they were at a moment: the first
// MaxFlows of those that have a millisecond left.
func Encode(o Owner, at Instant, flows []filter.Outbound) []byte {
	b := make([]byte, 0, headerSize+flowSize*min(len(flows), MaxFlows))
	b = append(b, version)
	b = append(b, o.Network[:]...)
	b = append(b, o.Node[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(at.Wall.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(at.Boot.Milliseconds()))
	n := 0
	for i := range flows {
		if left := flows[i].Left.Milliseconds(); left > 0 && n < MaxFlows {
			b = appendFlow(b, &flows[i], uint32(left))
			n++
		}
	}
	return b
}

func appendFlow(b []byte, fl *filter.Outbound, left uint32) []byte {
	local, remote := fl.Local.Addr().As16(), fl.Remote.Addr().As16()
	b = append(b, fl.Peer[:]...)
	b = append(b, local[:]...)
	b = append(b, remote[:]...)
	b = binary.BigEndian.AppendUint16(b, fl.Local.Port())
	b = binary.BigEndian.AppendUint16(b, fl.Remote.Port())
	ours, theirs := &fl.TCP[filter.Out], &fl.TCP[filter.In]
	set := bit(flagEcho, fl.Echo) | bit(flagAnswered, fl.Answered) |
		bit(flagSent, ours.Any) | bit(flagSentFin, ours.Fin) | bit(flagReceived, theirs.Any) | bit(flagReceivedFin, theirs.Fin)
	b = append(b, byte(fl.Proto), set)
	b = binary.BigEndian.AppendUint32(b, left)
	for _, s := range [...]*filter.Sent{ours, theirs} {
		b = binary.BigEndian.AppendUint32(b, s.Next)
		b = binary.BigEndian.AppendUint32(b, s.Ack)
	}
	return b
}

func bit(flag byte, on bool) byte {
	if on {
		return flag
	}
	return 0
}

// Decode is the flows that a content holds and that have something left now.
func Decode(o Owner, now Instant, b []byte) ([]filter.Outbound, error) {
	switch {
	case len(b) == 0 || b[0] != version:
		return nil, errors.New("decode flows: not version 1")
	case len(b) < headerSize || (len(b)-headerSize)%flowSize != 0:
		return nil, fmt.Errorf("decode flows: %d bytes are no whole number of flows", len(b))
	case len(b) > headerSize+MaxFlows*flowSize:
		return nil, fmt.Errorf("decode flows: %d of them, want %d at most", (len(b)-headerSize)/flowSize, MaxFlows)
	}
	r := reader(b[1:])
	switch {
	case key.NetworkID(r.next(32)) != o.Network:
		return nil, errors.New("decode flows: they are of another network")
	case key.NodeID(r.next(32)) != o.Node:
		return nil, errors.New("decode flows: they are another node's")
	}
	since, err := elapsed(r.uint64(), r.uint64(), now)
	if err != nil {
		return nil, fmt.Errorf("decode flows: %w", err)
	}
	var out []filter.Outbound
	for n := 0; len(r) > 0; n++ {
		fl, err := r.flow()
		if err != nil {
			return nil, fmt.Errorf("decode flows: flow %d: %w", n, err)
		}
		if fl.Left -= since; fl.Left > 0 {
			out = append(out, fl)
		}
	}
	return out, nil
}

// elapsed is how long ago a file was saved, both in milliseconds.
func elapsed(saved, boot uint64, now Instant) (time.Duration, error) {
	const most = 1 << 52 // milliseconds: beyond any date, and far from overflow
	if saved > most || boot > most {
		return 0, errors.New("saved at no time")
	}
	wall := now.Wall.UnixMilli() - int64(saved)
	up := now.Boot.Milliseconds() - int64(boot)
	if boot == 0 || now.Boot == 0 {
		up = 0
	}
	switch {
	case up < 0:
		return 0, errors.New("saved before the machine was started")
	case wall < -ahead.Milliseconds():
		return 0, errors.New("saved in the future")
	case max(wall, up) > filter.MaxLeft.Milliseconds():
		return 0, errors.New("saved longer ago than any flow lives")
	}
	return time.Duration(max(wall, up, 0)) * time.Millisecond, nil
}

// A reader is the rest of a content; its callers know that it is long enough.
type reader []byte

func (r *reader) next(n int) []byte {
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}

func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.next(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.next(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.next(8)) }

func (r *reader) flow() (fl filter.Outbound, err error) {
	fl.Peer = key.NodeID(r.next(32))
	local, remote := r.addr(), r.addr()
	fl.Local = netip.AddrPortFrom(local, r.uint16())
	fl.Remote = netip.AddrPortFrom(remote, r.uint16())
	fl.Proto = acl.Proto(r.next(1)[0])
	set := r.next(1)[0]
	fl.Echo, fl.Answered = set&flagEcho != 0, set&flagAnswered != 0
	left := r.uint32()
	fl.Left = time.Duration(left) * time.Millisecond
	fl.TCP[filter.Out] = r.sent(set&flagSent != 0, set&flagSentFin != 0)
	fl.TCP[filter.In] = r.sent(set&flagReceived != 0, set&flagReceivedFin != 0)
	switch {
	case set>>flags != 0:
		return fl, fmt.Errorf("unknown flags %#x", set)
	case local.Is4() != remote.Is4() || local == netip.IPv6Unspecified() || remote == netip.IPv6Unspecified():
		return fl, fmt.Errorf("no two ends: %v and %v", local, remote)
	case fl.Left > filter.MaxLeft:
		return fl, fmt.Errorf("%v left, want %v at most", fl.Left, filter.MaxLeft)
	case left == 0:
		return fl, errors.New("nothing left")
	}
	for _, s := range fl.TCP {
		if s.Any && fl.Proto != acl.TCP || !s.Any && s != (filter.Sent{}) {
			return fl, fmt.Errorf("TCP numbers without a segment, in %v", fl.Proto)
		}
	}
	return fl, nil
}

func (r *reader) addr() netip.Addr { return netip.AddrFrom16([16]byte(r.next(16))).Unmap() }

func (r *reader) sent(sent, fin bool) filter.Sent {
	return filter.Sent{Next: r.uint32(), Ack: r.uint32(), Any: sent, Fin: fin}
}

// Write replaces the file at path.
func Write(path string, o Owner, at Instant, flows []filter.Outbound) error {
	return statefile.Write(path, Kind, Encode(o, at, flows))
}

// Read gives the flows of the file at path that have something left. Where there
// is no file the error matches fs.ErrNotExist. Where the file is damaged and the
// copy before it is whole, the copy's flows come with a *statefile.Damaged error.
func Read(path string, o Owner, now Instant) ([]filter.Outbound, error) {
	for _, p := range []string{path, path + ".prev"} {
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("read flows: %w", err)
		case info.Size() > MaxSize:
			return nil, fmt.Errorf("read flows: %s has %d bytes, want %d at most", p, info.Size(), MaxSize)
		}
	}
	b, damaged := statefile.Read(path, Kind)
	if b == nil && damaged != nil {
		return nil, damaged
	}
	flows, err := Decode(o, now, b)
	return flows, errors.Join(damaged, err)
}
