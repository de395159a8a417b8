package tunnel

import "testing"

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
