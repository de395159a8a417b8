package migrate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// protocols are the names that the service knows (IANA).
var protocols = map[string]int{
	"icmp": 1, "igmp": 2, "ipv4": 4, "ip-in-ip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "gre": 47, "esp": 50, "ah": 51,
	"ipv6-icmp": 58, "sctp": 132, "fc": 133,
}

// noProtocol is where none is written.
const noProtocol = -1

// protocol reads a protocol's name or number.
func protocol(s string) (int, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if s == "" || s == "*" {
		return noProtocol, nil
	}
	if n, ok := protocols[s]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("unknown protocol %q%s", s, didYouMean(s, keys(protocols)))
	case strconv.Itoa(n) != s:
		return 0, fmt.Errorf("protocol %q: want a number without leading zeros", s)
	case n < 1 || n > 255:
		return 0, fmt.Errorf("protocol %d: want 1 to 255", n)
	}
	return n, nil
}

// A span is the ports from first to last; the zero span is every port.
type span struct{ first, last int }

// spans reads "*", "22", "80-443" or several with commas.
func spans(s string) (out []span, err error) {
	if s == "*" {
		return []span{{}}, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		a, b, isRange := strings.Cut(part, "-")
		first, err := port(a)
		last := first
		if err == nil && isRange {
			last, err = port(b)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("port range %q: %w", part, err)
		case first == 0:
			return nil, fmt.Errorf("port range %q: the first port is above 0; write \"*\" for all", part)
		case first > last:
			return nil, fmt.Errorf("port range %q: runs backwards", part)
		}
		out = append(out, span{first, last})
	}
	return out, nil
}

func port(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a port", s)
	case n > 65535:
		return 0, fmt.Errorf("%d is above 65535", n)
	}
	return int(n), nil
}

// allowed are the ports of a protocol as rules here write them. Any port opens
// ping, as there; "service:any-port" and protocols without ports say so
// themselves.
func allowed(proto int, list []span) (out []string, err error) {
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, s := range list {
		every := s == span{}
		switch proto {
		case noProtocol:
			if every {
				add("service:" + anyPort)
				continue
			}
			add("tcp/" + s.String())
			add("udp/" + s.String())
		case 6, 17, 132:
			if every {
				add(fmt.Sprintf("proto/%d", proto))
				break
			}
			add(map[int]string{6: "tcp/", 17: "udp/", 132: "sctp/"}[proto] + s.String())
		default:
			if !every {
				return nil, fmt.Errorf("protocol %d has no ports: only \"*\" fits", proto)
			}
			if proto != 1 && proto != 58 {
				add(fmt.Sprintf("proto/%d", proto))
			}
		}
		add("icmp")
	}
	return out, nil
}

func (s span) String() string {
	if s.first == s.last {
		return strconv.Itoa(s.first)
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// hostPort takes a destination of acls apart: "tag:db:5432", "[fd00::1]:22",
// "fd00::/64:443", "[fd00::]/64:443".
func hostPort(s string) (host, ports string, err error) {
	s = strings.TrimSpace(s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", errors.New("no port; write HOST:PORT")
	}
	host, ports = s[:i], strings.TrimSpace(s[i+1:])
	switch {
	case host == "":
		return "", "", errors.New("no host before the port")
	case ports == "":
		return "", "", errors.New("no port behind the colon")
	}
	if rest, ok := strings.CutPrefix(host, "["); ok {
		inner, after, closed := strings.Cut(rest, "]")
		if !closed || !strings.Contains(inner, ":") || after != "" && !strings.HasPrefix(after, "/") {
			return "", "", errors.New("brackets are for IPv6 addresses")
		}
		host = inner + after
	}
	if slices.Contains([]string{"autogroup", "tag", "group", "host", "ipset"}, host) {
		return "", "", errors.New("no port; write HOST:PORT")
	}
	return host, ports, nil
}
