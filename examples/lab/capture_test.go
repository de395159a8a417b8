//go:build lab

package lab

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A Tap reads every packet on every interface of a namespace. It counts them by
// addresses and protocol, which tells what path traffic takes without asking
// those who send it, and looks for the canary.
type Tap struct {
	where string
	file  *os.File
	done  chan struct{}

	mu      sync.Mutex // guards the fields below
	canary  []byte
	seen    map[Flow]uint64
	in      uint64   // packets in all
	clear   []string // packets that bear the canary, the first few
	changed chan struct{}
}

// A Flow is what a Tap counts packets by.
type Flow struct {
	From, To netip.Addr
	Proto    int // of IP: unix.IPPROTO_UDP
}

// maxClear is how many packets in clear a failure tells of.
const maxClear = 5

func newTap(n *Namespace, canary string) (*Tap, error) {
	t := &Tap{where: n.Name, canary: []byte(canary), done: make(chan struct{}), seen: map[Flow]uint64{}, changed: make(chan struct{})}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err := n.Do(func() error {
		// SOCK_DGRAM: packets without what stands before them on the line.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		// For bursts while the test does something else; a packet that finds it
		// full is noticed in stop.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		t.file = os.NewFile(uintptr(fd), "packets of "+n.Name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("capture in %s: %w", n.Name, err)
	}
	go t.read()
	return t, nil
}

func (t *Tap) read() {
	defer close(t.done)
	buf := make([]byte, 128<<10) // a segment before it is cut is up to 64 KiB
	for {
		n, err := t.file.Read(buf)
		if err != nil {
			return
		}
		t.packet(buf[:n])
	}
}

func (t *Tap) packet(p []byte) {
	f, ok := flowOf(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	bare := bytes.Contains(p, t.canary)
	t.in++
	if ok {
		t.seen[f]++
	}
	if bare && len(t.clear) < maxClear {
		t.clear = append(t.clear, fmt.Sprintf("%s → %s, protocol %d, %d bytes", f.From, f.To, f.Proto, len(p)))
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// flowOf reads the addresses of an IP packet; extension headers of IPv6 count as
// protocols, which is enough here.
func flowOf(p []byte) (f Flow, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		f.From, _ = netip.AddrFromSlice(p[12:16])
		f.To, _ = netip.AddrFromSlice(p[16:20])
		f.Proto = int(p[9])
	case len(p) >= 40 && p[0]>>4 == 6:
		f.From, _ = netip.AddrFromSlice(p[8:24])
		f.To, _ = netip.AddrFromSlice(p[24:40])
		f.Proto = int(p[6])
	default:
		return f, false
	}
	return f, true
}

// Count is how many packets of that protocol went from one address to another.
// Each packet that is forwarded is seen twice: coming and going.
func (t *Tap) Count(from, to netip.Addr, proto int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[Flow{from, to, proto}]
}

// bare is whether the canary was seen.
func (t *Tap) bare() ([]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clear, t.changed
}

// forgive makes the tap forget that it found the canary.
func (t *Tap) forgive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear, t.canary = nil, []byte(rand.Text())
}

// stop ends the capture and fails the test if the canary was in any packet, or
// if that cannot be said.
func (t *Tap) stop(tb testing.TB) {
	tb.Helper()
	raw, err := t.file.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			var s *unix.TpacketStats
			if s, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil && s.Drops > 0 {
				tb.Errorf("canary: the capture at %s missed %d of %d packets, so that nothing can be said", t.where, s.Drops, s.Packets)
			}
		})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		tb.Errorf("canary: how many packets the capture missed: %v", err)
	}
	if err := t.file.Close(); err != nil {
		tb.Errorf("canary: %v", err)
	}
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == 0 {
		tb.Errorf("canary: the capture at %s saw no packet at all", t.where)
	}
	for _, p := range t.clear {
		tb.Errorf("canary: what was said over the mesh crossed %s in clear: %s", t.where, p)
	}
}
