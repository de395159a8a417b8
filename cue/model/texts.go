package model

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// time reads a time, zero when there is none.
func (d *decoder) time(v *value, what string) time.Time {
	if v == nil {
		return time.Time{}
	}
	t, err := parseTime(v.str)
	d.add(v.place, what, err)
	return t
}

// parseTime reads RFC 3339 in whole seconds. Years are 2000 to 9999: the zero
// time means "without end" in the model and must not be writable, and JSON has
// no year of five digits.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Format(time.RFC3339) != s {
		return time.Time{}, fmt.Errorf(`%s is not a time; write it as "2026-12-31T18:00:00Z"`, quoteName(s))
	}
	t = t.UTC()
	if t.Year() < 2000 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%s: the year is not between 2000 and 9999", quoteName(s))
	}
	return t, nil
}

// parsePrefix reads an address or a CIDR.
func parsePrefix(s string) (netip.Prefix, error) {
	text, bits, isPrefix := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is not an address or CIDR", quoteName(s))
	case addr.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("%s: an address with a zone means another thing on each node", quoteName(s))
	case addr.Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 in IPv6 clothes; write %s", quoteName(s), addr.Unmap())
	}
	n := addr.BitLen()
	if isPrefix {
		if n, err = strconv.Atoi(bits); err != nil || n < 0 || n > addr.BitLen() || strconv.Itoa(n) != bits {
			return netip.Prefix{}, fmt.Errorf("%s: /%s is not a length from 0 to %d", quoteName(s), bits, addr.BitLen())
		}
	}
	p := netip.PrefixFrom(addr, n)
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits set after the first %d; write %s", quoteName(s), n, p.Masked())
	}
	return p, nil
}

// private are the prefixes that a network may take its addresses from: an
// address that is somebody's on the Internet would be cut off from the nodes.
var private = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),  // RFC 6598
	netip.MustParsePrefix("10.0.0.0/8"),     // RFC 1918
	netip.MustParsePrefix("172.16.0.0/12"),  // RFC 1918
	netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
}

// minPrefix4 is the longest prefix of a network: 254 nodes. A network cannot
// move to other addresses, so that a small one is never meant.
const minPrefix4 = 24

func parsePrefix4(s string) (netip.Prefix, error) {
	p, err := parsePrefix(s)
	switch {
	case err != nil:
		return p, err
	case !p.Addr().Is4():
		return p, fmt.Errorf("%s is not IPv4", quoteName(s))
	case p.Bits() > minPrefix4:
		return p, fmt.Errorf("%s is too small for a network; at least /%d", quoteName(s), minPrefix4)
	}
	for _, outer := range private {
		if outer.Contains(p.Addr()) && outer.Bits() <= p.Bits() {
			return p, nil
		}
	}
	return p, fmt.Errorf("%s is on the Internet; choose within 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", quoteName(s))
}

func parseAddr4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%s is not an IPv4 address", quoteName(s))
	}
	return a, nil
}

// parseEndpoint reads where a node may be found.
func parseEndpoint(s string) (netip.AddrPort, error) {
	e, err := netip.ParseAddrPort(s)
	if err != nil {
		return e, fmt.Errorf(`%s: want an address and a port, as in "203.0.113.5:51820"`, quoteName(s))
	}
	a := e.Addr()
	switch {
	case e.Port() == 0:
		return e, fmt.Errorf("%s: 0 is not a port", quoteName(s))
	case a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsLoopback():
		return e, fmt.Errorf("%s: no other node can reach this address", quoteName(s))
	}
	return e, nil
}

// checkHostPort checks the address of a server.
func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf(`%s: want host:port, as in "relay.acme.example:443"`, quoteName(s))
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
		return fmt.Errorf("%s: %s is not a port", quoteName(s), quoteName(port))
	}
	if host == "" {
		return fmt.Errorf("%s: which host?", quoteName(s))
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%s: nothing can be reached at this address", quoteName(s))
		}
		return nil
	}
	if err := checkDomain(host); err != nil {
		return fmt.Errorf("%s: %w", quoteName(s), err)
	}
	return nil
}

// maxDomain is the longest domain: a name of the DNS has 253 bytes (RFC 1035
// section 2.3.4 less its framing), of which a node's label and a dot are 64.
const maxDomain = 253 - 64

func checkDomain(s string) error {
	if len(s) > maxDomain {
		return fmt.Errorf("domain of %d bytes: at most %d", len(s), maxDomain)
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if err := acl.CheckLabel("domain", label); err != nil {
			return fmt.Errorf("domain %s: %w", quoteName(s), err)
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("domain %s looks like an address", quoteName(s))
	}
	return nil
}

func checkUser(s string) error {
	if !strings.Contains(s, "@") {
		return fmt.Errorf("%s is not a user; write an e-mail address", quoteName(s))
	}
	return acl.CheckUser(s)
}

// checkPattern checks a pattern for names of nodes: a DNS label in which '*' is
// any run of characters.
func checkPattern(s string) error {
	if strings.Contains(s, "**") {
		return fmt.Errorf("pattern %s: one '*' is any run of characters already", quoteName(s))
	}
	// A star can be empty or a letter, wherever it stands.
	if err := acl.CheckLabel("pattern", strings.ReplaceAll(s, "*", "x")); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), quoteName(strings.ReplaceAll(s, "*", "x")), quoteName(s)))
	}
	return nil
}

// serviceName is the name in "service:NAME".
func serviceName(port string) (string, bool) { return strings.CutPrefix(port, "service:") }

// matches reports whether name is one that the pattern allows.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(name, first) || !strings.HasSuffix(name[len(first):], last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return true
}
