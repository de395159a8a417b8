package stun

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func info4(ifindex int32, local, dst [4]byte) []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: ifindex, Spec_dst: local, Addr: dst})
}

func info6(ifindex uint32, ip string) []byte {
	return unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: ifindex, Addr: [16]byte(net.ParseIP(ip))})
}

// TestReplyLeavesFromWhereItWasAsked compares with messages that x/sys/unix makes.
func TestReplyLeavesFromWhereItWasAsked(t *testing.T) {
	a, b := [4]byte{192, 0, 2, 1}, [4]byte{192, 0, 2, 255}
	other := bytes.Clone(info4(3, a, a))
	other[unix.SizeofCmsghdr-4]++ // another type of the same level
	for _, c := range []struct {
		name     string
		in, want []byte
	}{
		{"nothing", nil, nil},
		{"IPv4", info4(3, a, a), info4(0, a, [4]byte{})},
		{"IPv4 broadcast", info4(3, a, b), info4(0, a, [4]byte{})},
		{"IPv6", info6(3, "2001:db8::1"), info6(0, "2001:db8::1")},
		{"IPv6 link-local", info6(3, "fe80::1"), info6(3, "fe80::1")},
		{"IPv6 multicast", info6(3, "ff02::1"), nil},
		{"behind another", append(bytes.Clone(other), info6(3, "2001:db8::1")...), info6(0, "2001:db8::1")},
		{"another alone", other, nil},
		{"cut", info4(3, a, a)[:20], nil},
		{"cut in the header", info4(3, a, a)[:7], nil},
	} {
		if got := newUDP(nil).reply(c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, got, c.want)
		}
	}
}
