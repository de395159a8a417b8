//go:build linux

package bind

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/agent/path"
)

// On Linux all of 127.0.0.0/8 is the host's own: a host with several addresses.
// What was sent to one of them is answered from it.
func TestAnswerFromWhereItWasAsked(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	e := s.endpoint(t, node(1))
	second, third := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	ask := func(pkt []byte, to netip.Addr) {
		t.Helper()
		if _, err := c.WriteToUDPAddrPort(pkt, s.at(to)); err != nil {
			t.Fatal(err)
		}
		if Classify(pkt) == Disco {
			next(t, s.control, "probe")
		} else {
			next(t, s.got, "data")
		}
	}
	answered := func(what string, want netip.Addr) {
		t.Helper()
		buf := make([]byte, 2000)
		_, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || plain(from) != s.at(want) {
			t.Errorf("%s: from %s, %v; want from %s", what, from, err, s.at(want))
		}
	}
	probe := func(what string, want netip.Addr) {
		t.Helper()
		if err := s.SendTo(at, disco("pong")); err != nil {
			t.Fatal(err)
		}
		answered(what, want)
	}
	payload := func(what string, want netip.Addr) {
		t.Helper()
		if err := s.Send([][]byte{data(64, 1), data(64, 2)}, e); err != nil {
			t.Fatal(err)
		}
		answered(what, want)
		answered(what, want)
	}

	probe("nothing heard yet", loop4)
	ask(disco("ping"), second)
	probe("pong", second)
	s.Use(node(1), path.Choice{Direct: at})
	payload("data on the path that was probed", second)
	ask(disco("ping"), third)
	payload("data after a probe to another address", third)
	s.Learn(at, node(1))
	ask(data(64, 3), second)
	payload("data after data to another address", second)
	e.ClearSrc()
	payload("after ClearSrc", loop4)
	ask(data(64, 3), second)
	s.ClearSources()
	probe("after ClearSources", loop4)
	ask(disco("ping"), third)
	s.close(t)
	s.open(t)
	payload("after another opening", loop4)
	// What does not ask is not answered: a STUN server's address is no peer's.
	stun := make([]byte, 20)
	copy(stun[4:], "\x21\x12\xa4\x42")
	other, otherAt := outsider(t, loop4)
	if _, err := other.WriteToUDPAddrPort(stun, s.at(second)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, s.control, "STUN"); got.from != otherAt || !bytes.Equal(got.pkt, stun) {
		t.Errorf("STUN: got %x from %s, want from %s", got.pkt, got.from, otherAt)
	}
	if s.book.byAddr[otherAt] != nil {
		t.Error("a STUN server is remembered like a peer")
	}
}

// A local address that the kernel does not have any more is given up at the first
// packet, and the packet is sent all the same.
func TestStaleSource(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	e := s.endpoint(t, node(1))
	s.Use(node(1), path.Choice{Direct: at})
	gone := local{addr: netip.MustParseAddr("192.0.2.1")} // nobody's (RFC 5737)
	s.book.byAddr[at].local.Store(&gone)
	for i := range 3 {
		if err := s.Send([][]byte{data(64, i)}, e); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		if _, from, err := c.ReadFromUDPAddrPort(buf); err != nil || plain(from) != s.at(loop4) {
			t.Errorf("packet %d: from %s, %v; want from %s", i, from, err, s.at(loop4))
		}
	}
	if got := s.book.byAddr[at].local.Load(); got != nil {
		t.Errorf("still remembered: %v", got)
	}
	none(t, s.failed, "Failed")
	if got := len(s.relay.sent); got != 0 {
		t.Errorf("%d packets by relay, want none", got)
	}
}

// A train of more packets than a batch has room for is given whole, in order, in
// several batches.
func TestTrainLongerThanBatch(t *testing.T) {
	s := newStation(t, nil)
	c, at := outsider(t, loop4)
	s.endpoint(t, node(1))
	s.Learn(at, node(1))
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const segment = 32
	segments := 128 // the most that Linux 6.9 sends
	oob := appendSegment(make([]byte, 0, controlSize), segment)
	to := &unix.SockaddrInet4{Port: int(s.LocalPort()), Addr: loop4.As4()}
	const rounds = 20
	for number := 0; number < rounds; {
		var train []byte
		for i := range segments {
			train = append(train, data(segment, number*segments+i)...)
		}
		end := data(40, number) // of another length, so that it is not joined
		var sent error
		if err := raw.Write(func(fd uintptr) bool {
			_, sent = unix.SendmsgN(int(fd), train, oob, to, 0)
			return sent != unix.EAGAIN
		}); err != nil {
			t.Fatal(err)
		}
		if sent == unix.EINVAL && segments > trainLength {
			segments = trainLength // an older kernel
			continue
		} else if sent != nil {
			t.Fatal(sent)
		}
		if _, err := c.WriteToUDPAddrPort(end, s.at(loop4)); err != nil {
			t.Fatal(err)
		}
		for i := range segments {
			if got, want := next(t, s.got, "train"), data(segment, number*segments+i); got.id != node(1) || !bytes.Equal(got.pkt, want) {
				t.Fatalf("train %d, packet %d: got %x of %v, want %x", number, i, got.pkt, got.id, want)
			}
		}
		if got := next(t, s.got, "end"); !bytes.Equal(got.pkt, end) {
			t.Fatalf("after train %d: got %x, want %x", number, got.pkt, end)
		}
		number++
	}
}

// The control messages that are written are the ones that are read.
func TestControlMessages(t *testing.T) {
	for _, want := range []local{{netip.MustParseAddr("192.0.2.7"), 3}, {netip.MustParseAddr("2001:db8::7"), 1 << 30}} {
		oob := appendSource(make([]byte, 0, controlSize), &want)
		if oob = appendSegment(oob, 1312); len(oob) > controlSize {
			t.Errorf("%v: %d bytes of control messages, room for %d", want, len(oob), controlSize)
		}
		// UDP_SEGMENT is what is sent, UDP_GRO what is received.
		if got, _ := parseControl(oob); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// FuzzControl: no control message makes the parser panic, nor a train whose
// packets have no length.
func FuzzControl(f *testing.F) {
	f.Add(appendSegment(appendSource(make([]byte, 0, controlSize), &local{loop4, 1}), 1), []byte{2, 0, 0, 7, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(appendSource(make([]byte, 0, controlSize), &local{loop6, 1}), make([]byte, unix.SizeofSockaddrInet6))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, oob, name []byte) {
		if _, segment := parseControl(oob); segment < 0 {
			t.Errorf("a train of packets of %d bytes", segment)
		}
		parseName(name)
	})
}
