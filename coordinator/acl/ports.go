package acl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Proto is an IP protocol number (IANA).
type Proto uint8

// The protocols that rules name.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
	SCTP   Proto = 132
)

func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp4"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmp6"
	case SCTP:
		return "sctp"
	default:
		return "proto/" + strconv.Itoa(int(p))
	}
}

// hasPorts reports whether rules name ports of the protocol.
func (p Proto) hasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// A Target is what a new flow asks for at its destination.
type Target struct {
	Proto Proto
	Port  uint16 // destination port; 0 where the protocol has none
	Echo  bool   // an ICMP or ICMPv6 echo request
}

func (t Target) String() string {
	switch {
	case t.Echo:
		return "icmp"
	case t.Proto.hasPorts():
		return fmt.Sprintf("%s/%d", t.Proto, t.Port)
	default:
		return "proto/" + strconv.Itoa(int(t.Proto))
	}
}

// A Range is the shape of a Ports.
type Range uint8

// The shapes.
const (
	RangeNone  Range = iota // contains nothing
	RangePorts              // Proto, First to Last
	RangeProto              // all of Proto
	RangeEcho               // echo requests of both families
	RangeAll                // everything
)

// Ports is a set of targets as a rule writes it: "tcp/443", "icmp", "*". Its
// text is canonical: two Ports are equal exactly when their texts are.
type Ports struct {
	Range       Range
	Proto       Proto  // of RangePorts and RangeProto
	First, Last uint16 // of RangePorts, both included
}

// ParsePorts reads the text of a Ports.
func ParsePorts(s string) (Ports, error) {
	switch s {
	case "*":
		return Ports{Range: RangeAll}, nil
	case "icmp":
		return Ports{Range: RangeEcho}, nil
	case "":
		return Ports{}, errors.New("empty port")
	}
	name, rest, ok := strings.Cut(s, "/")
	var p Proto
	switch name {
	case "tcp":
		p = TCP
	case "udp":
		p = UDP
	case "sctp":
		p = SCTP
	case "proto":
		if !ok {
			return Ports{}, fmt.Errorf("%q: want proto/NUMBER", s)
		}
		n, err := number(rest, 255)
		if err != nil {
			return Ports{}, fmt.Errorf("%q: protocol %w", s, err)
		}
		return Ports{Range: RangeProto, Proto: Proto(n)}, nil
	case "icmp":
		return Ports{}, fmt.Errorf("%q: icmp has no ports; write \"icmp\" for ping", s)
	default:
		return Ports{}, fmt.Errorf("%q: unknown protocol %q; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *", s, name)
	}
	if !ok {
		return Ports{}, fmt.Errorf("%q: which port? write %s/PORT, %s/FIRST-LAST, or proto/%d for all", s, name, name, p)
	}
	a, b, isRange := strings.Cut(rest, "-")
	first, err := number(a, 65535)
	if err == nil && first == 0 {
		err = errors.New("0 is not a port")
	}
	last := first
	if err == nil && isRange {
		last, err = number(b, 65535)
	}
	switch {
	case err != nil:
		return Ports{}, fmt.Errorf("%q: port %w", s, err)
	case isRange && last == first:
		return Ports{}, fmt.Errorf("%q: a range of one port; write %s/%d", s, name, first)
	case last < first:
		return Ports{}, fmt.Errorf("%q: the range runs backwards", s)
	}
	return Ports{RangePorts, p, uint16(first), uint16(last)}, nil
}

// number reads a decimal number without sign, spaces or leading zeros.
func number(s string, limit int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < 0 {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	if n > limit {
		return 0, fmt.Errorf("%d is above %d", n, limit)
	}
	return n, nil
}

func (p Ports) String() string {
	switch p.Range {
	case RangePorts:
		if p.First == p.Last {
			return fmt.Sprintf("%s/%d", p.Proto, p.First)
		}
		return fmt.Sprintf("%s/%d-%d", p.Proto, p.First, p.Last)
	case RangeProto:
		return "proto/" + strconv.Itoa(int(p.Proto))
	case RangeEcho:
		return "icmp"
	case RangeAll:
		return "*"
	default:
		return "nothing"
	}
}

// Contains reports whether the set contains the target.
func (p Ports) Contains(t Target) bool {
	switch p.Range {
	case RangePorts:
		return t.Proto == p.Proto && p.First <= t.Port && t.Port <= p.Last
	case RangeProto:
		return t.Proto == p.Proto
	case RangeEcho:
		return t.Echo && (t.Proto == ICMP || t.Proto == ICMPv6)
	case RangeAll:
		return true
	default:
		return false
	}
}

// MarshalText writes the text of p.
func (p Ports) MarshalText() ([]byte, error) {
	if p.Range == RangeNone {
		return nil, errors.New("the empty port set has no text")
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads the text of p.
func (p *Ports) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePorts(string(b))
	return err
}
