package tunnel

import (
	"testing"

	"golang.zx2c4.com/wireguard/device"
)

// ipFrom is an IP packet without content. Both addresses are of one family.
func ipFrom(src, dst []byte) []byte {
	if len(src) == 4 {
		p := make([]byte, 20)
		p[0], p[3], p[8], p[9] = 0x45, 20, 64, 253
		copy(p[12:], src)
		copy(p[16:], dst)
		return p
	}
	p := make([]byte, 40)
	p[0], p[6], p[7] = 0x60, 253, 64
	copy(p[8:], src)
	copy(p[24:], dst)
	return p
}

// A peer that sends from addresses that are not its own is counted, and nothing
// of it arrives.
func TestForgedSource(t *testing.T) {
	m, a, b := pair(t)
	c := m.node(t, 3)
	b.setPeers(t, a, c)
	if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
		t.Fatal(err)
	}
	arrived := make(chan []byte, 16)
	pass := func(pkt []byte) bool { arrived <- append([]byte(nil), pkt...); return false }
	b.in.Store(&pass)
	want := uint64(0)
	send := func(src, dst []byte) {
		t.Helper()
		if !a.tun.InjectOut(ipFrom(src, dst)) {
			t.Fatal("no room")
		}
	}
	for range 3 {
		send(c.v4.AsSlice(), b.v4.AsSlice()) // another peer's
		send([]byte{192, 0, 2, 1}, b.v4.AsSlice())
		send(c.v6.AsSlice(), b.v6.AsSlice())
		want += 3
	}
	send(a.v4.AsSlice(), b.v4.AsSlice()) // behind them, its own
	select {
	case p := <-arrived:
		if string(p[12:16]) != string(a.v4.AsSlice()) {
			t.Errorf("a packet from %v arrived", p[12:16])
		}
	case <-withinContext(t).Done():
		t.Fatal("nothing arrived")
	}
	if got := b.tun.Counters().ForgedSource; got != want {
		t.Errorf("%d packets with a forged source, want %d", got, want)
	}
	if got := a.tun.Counters().ForgedSource; got != 0 {
		t.Errorf("the sender counts %d, want none", got)
	}
}

// The Bind counts what WireGuard accepted, keepalives too, and nothing that was
// made up.
func TestAcceptedIsCounted(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		lazily = lazy
		_, a, b := pair(t)
		lazily = false
		if err := a.tun.Handshake(b.id); err != nil {
			t.Fatal(err)
		}
		// a has nothing to say: it confirms the session by a keepalive.
		await(t, "a keepalive", func() bool { return b.bind.Traffic(a.id).RelayReceived == 1 })
		const packets = 20
		for range packets {
			if _, err := a.net.Ping(withinContext(t), b.v4); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.bind.Traffic(a.id).RelayReceived; got != packets+1 {
			t.Errorf("lazy %v: %d received, want %d", lazy, got, packets+1)
		}
		if got := a.bind.Traffic(b.id).RelayReceived; got != packets {
			t.Errorf("lazy %v: %d answers received, want %d", lazy, got, packets)
		}
		for size := device.MessageKeepaliveSize; size < 300; size++ {
			p := make([]byte, size)
			p[0] = device.MessageTransportType
			b.bind.Deliver(a.id, p)
		}
		if _, err := a.net.Ping(withinContext(t), b.v4); err != nil { // behind them
			t.Fatal(err)
		}
		if got := b.bind.Traffic(a.id).RelayReceived; got != packets+2 {
			t.Errorf("lazy %v: %d received with those that were made up, want %d", lazy, got, packets+2)
		}
	}
}
