//go:build lab

package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A NAT is what a router does with what passes it. Every router drops what
// comes from outside and answers nothing that went out before. The words are
// those of RFC 4787.
type NAT struct {
	Mapping  Mapping
	BlockUDP bool          // neither in nor out, as at some offices and hotels
	IPv6     bool          // the LAN has public IPv6 addresses behind a stateful firewall
	LAN      netip.Prefix  // zero: DefaultLAN, which is that of most homes
	Forget   time.Duration // after which a mapping without packets is forgotten; zero: the kernel's 30 s, or 120 s once there were answers
}

// DefaultLAN is the LAN of every router that is told nothing else, so that the
// same private addresses occur at several sites, as they do.
var DefaultLAN = netip.MustParsePrefix("192.168.1.0/24")

// Mapping is how a router chooses the address that stands outside for one
// inside. Filtering is address-and-port-dependent for all of them: a Linux router
// lets in the answers to what went out.
type Mapping int

const (
	// EndpointIndependent keeps the port, whatever the destination. (Linux does so
	// while no two flows collide, which the scenarios keep to.)
	EndpointIndependent Mapping = iota
	// AddressAndPortDependent takes another port at random for each destination.
	AddressAndPortDependent
	// Untranslated routes public IPv4 addresses, behind a stateful firewall.
	Untranslated
)

func (m Mapping) String() string {
	switch m {
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressAndPortDependent:
		return "address-and-port-dependent"
	case Untranslated:
		return "untranslated"
	}
	return fmt.Sprintf("Mapping(%d)", int(m))
}

func (nat NAT) lan() netip.Prefix {
	if nat.LAN.IsValid() {
		return nat.LAN
	}
	return DefaultLAN
}

// ruleset is the router's, in the words of nft(8). Its interfaces are wan and
// lan.
func (nat NAT) ruleset() string {
	var udp, masquerade string
	if nat.BlockUDP {
		udp = `meta l4proto udp counter drop comment "UDP is blocked"`
	}
	switch nat.Mapping {
	case EndpointIndependent:
		masquerade = `oifname "wan" meta nfproto ipv4 counter masquerade`
	case AddressAndPortDependent:
		masquerade = `oifname "wan" meta nfproto ipv4 counter masquerade fully-random`
	}
	r := strings.NewReplacer("UDP", udp, "MASQUERADE", masquerade)
	return r.Replace(`
table inet router {
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "wan" ct state established,related accept
		iifname "wan" meta l4proto ipv6-icmp accept
		iifname "wan" counter drop comment "unsolicited, to the router"
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		UDP
		iifname "wan" ct state established,related counter accept
		iifname "wan" counter drop comment "unsolicited"
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		MASQUERADE
	}
}
`)
}

func (nat NAT) sysctls() []string {
	s := []string{"net.ipv4.ip_forward=1"}
	if nat.IPv6 {
		s = append(s, "net.ipv6.conf.all.forwarding=1")
	}
	if nat.Forget > 0 {
		seconds := int(nat.Forget / time.Second)
		s = append(s, fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", seconds),
			fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", seconds))
	}
	return s
}
