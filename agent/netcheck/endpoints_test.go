package netcheck

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/writmesh/writ/agent/disco"
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var filter = Filter{
	Skip: []string{"writ0"},
	Mesh: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd12:3456::/48")},
}

func TestLocal(t *testing.T) {
	interfaces := []Interface{
		{"lo", true, addrs("127.0.0.1", "::1")},
		{"docker0", true, addrs("172.17.0.1")},
		{"eth0", true, addrs("192.168.1.10", "fe80::1", "2001:db8::10", "fd00::10", "169.254.7.7", "ff02::1")},
		{"eth1", false, addrs("192.168.2.10")},
		{"writ0", true, addrs("10.9.9.9")},
		{"tun7", true, addrs("100.64.0.3", "fd12:3456::3", "100.128.0.3")},
		{"eth2", true, addrs("::ffff:192.168.1.10", "0.0.0.0")},
	}
	for _, v := range []struct {
		f            Filter
		port4, port6 uint16
		want         []string
	}{
		{filter, 4, 6, []string{"192.168.1.10:4", "[2001:db8::10]:6", "[fd00::10]:6", "100.128.0.3:4", "172.17.0.1:4", "169.254.7.7:4"}},
		{filter, 4, 0, []string{"192.168.1.10:4", "100.128.0.3:4", "172.17.0.1:4", "169.254.7.7:4"}},
		{filter, 0, 6, []string{"[2001:db8::10]:6", "[fd00::10]:6"}},
		{Filter{Loopback: true, Skip: []string{"eth0", "tun7", "docker0", "eth2"}}, 4, 6, []string{"127.0.0.1:4", "[::1]:6", "10.9.9.9:4"}},
	} {
		var got []string
		for _, a := range v.f.Local(interfaces, v.port4, v.port6) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, v.want) {
			t.Errorf("%+v, ports %d and %d: got %v, want %v", v.f, v.port4, v.port6, got, v.want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	local := []netip.AddrPort{home, wan6, ap("172.17.0.1:40001")}
	r := Report{
		IPv4: Family{Endpoints: []netip.AddrPort{ap("203.0.113.77:1024"), ap("203.0.113.77:1025"), ap("100.64.0.9:5")}},
		IPv6: Family{Endpoints: []netip.AddrPort{wan6}},
	}
	static := []netip.AddrPort{ap("198.51.100.7:51820"), ap("203.0.113.77:1025"), ap("[::ffff:198.51.100.7]:51820"), ap("127.0.0.1:1"), ap("[fd12:3456::1]:1"), ap("198.51.100.7:0"), {}}
	want := []string{
		"static 198.51.100.7:51820", "static 203.0.113.77:1025",
		"reflexive 203.0.113.77:1024", "interface [2001:db8:77::10]:40006",
		"interface 192.168.1.10:40001", "interface 172.17.0.1:40001",
	}
	var got []string
	for _, e := range filter.Endpoints(r, local, static) {
		got = append(got, e.Kind.String()+" "+e.Addr.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

// However many a node has, the best are told, and a message takes them.
func TestEndpointsAreBounded(t *testing.T) {
	var local []netip.AddrPort
	for i := range 100 {
		local = append(local, ap(fmt.Sprintf("[2001:db8::%x]:7", i+1)))
	}
	r := Report{IPv4: Family{Endpoints: []netip.AddrPort{ap("203.0.113.77:1024")}}}
	got := Filter{}.Endpoints(r, local, []netip.AddrPort{ap("198.51.100.7:1")})
	if len(got) != disco.MaxEndpoints || got[0].Kind != disco.Static || got[1].Kind != disco.Reflexive || got[31].Addr != local[29] {
		t.Errorf("got %d: %v", len(got), got)
	}
}

func TestInterfaceOf(t *testing.T) {
	ipNet := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		n.IP = ip
		return n
	}
	got := interfaceOf("eth0", net.FlagUp|net.FlagBroadcast, []net.Addr{ipNet("192.168.1.10/24"), ipNet("2001:db8::1/64"), &net.UnixAddr{}, &net.IPNet{IP: net.IP{1, 2}}})
	if want := addrs("192.168.1.10", "2001:db8::1"); got.Name != "eth0" || !got.Up || !slices.Equal(got.Addrs, want) {
		t.Errorf("got %+v, want %v", got, want)
	}
	if got := interfaceOf("eth1", net.FlagBroadcast, nil); got.Up || got.Addrs != nil {
		t.Errorf("got %+v, want it down", got)
	}
}

// Every machine that runs tests has a loopback interface, if no other.
func TestInterfaces(t *testing.T) {
	list, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	all, err := net.Interfaces()
	if err != nil || len(list) != len(all) {
		t.Fatalf("%d interfaces, the system has %d, %v", len(list), len(all), err)
	}
	for i, n := range all {
		if list[i].Name != n.Name {
			t.Errorf("interface %d: got %s, want %s", i, list[i].Name, n.Name)
		}
	}
}
