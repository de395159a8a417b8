package frame

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/writmesh/writ/coordinator/key"
)

// The Append functions append one whole frame to b, as append does. The Parse
// functions read the body of a frame that a Reader returned; slices in their
// results share the body's memory.

func header(b []byte, t Type, n int) []byte {
	return append(b, byte(t), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// AppendHello appends the node's first frame. Papers beyond MaxPapers make a
// frame that every relay refuses.
func AppendHello(b []byte, version uint16, papers []byte) []byte {
	b = header(b, Hello, 2+len(papers))
	b = binary.BigEndian.AppendUint16(b, version)
	return append(b, papers...)
}

// ParseHello reads the node's first frame.
func ParseHello(body []byte) (version uint16, papers []byte, err error) {
	if err := within(Hello, body); err != nil {
		return 0, nil, err
	}
	if version = binary.BigEndian.Uint16(body); version == 0 {
		return 0, nil, defect(Hello, "version 0")
	}
	return version, body[2:], nil
}

// AppendPapers appends renewed papers. The body is the papers.
func AppendPapers(b, papers []byte) []byte {
	return append(header(b, Papers, len(papers)), papers...)
}

// AppendSend appends a packet for dst.
func AppendSend(b []byte, dst key.NodeID, packet []byte) []byte {
	b = header(b, Send, NodeSize+len(packet))
	b = append(b, dst[:]...)
	return append(b, packet...)
}

// AppendRecv appends a packet from src.
func AppendRecv(b []byte, src key.NodeID, packet []byte) []byte {
	b = header(b, Recv, NodeSize+len(packet))
	b = append(b, src[:]...)
	return append(b, packet...)
}

// ParseSend reads the destination and the packet.
func ParseSend(body []byte) (dst key.NodeID, packet []byte, err error) {
	if err := within(Send, body); err != nil {
		return dst, nil, err
	}
	return key.NodeID(body[:NodeSize]), body[NodeSize:], nil
}

// ParseRecv reads the source and the packet.
func ParseRecv(body []byte) (src key.NodeID, packet []byte, err error) {
	if err := within(Recv, body); err != nil {
		return src, nil, err
	}
	return key.NodeID(body[:NodeSize]), body[NodeSize:], nil
}

// AppendPing appends a ping; the pong repeats its token.
func AppendPing(b []byte, token uint64) []byte {
	return binary.BigEndian.AppendUint64(header(b, Ping, 8), token)
}

// AppendPong appends the answer to a ping.
func AppendPong(b []byte, token uint64) []byte {
	return binary.BigEndian.AppendUint64(header(b, Pong, 8), token)
}

// ParsePing reads the token of a ping.
func ParsePing(body []byte) (token uint64, err error) {
	if err := within(Ping, body); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(body), nil
}

// ParsePong reads the token of a pong.
func ParsePong(body []byte) (token uint64, err error) {
	if err := within(Pong, body); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(body), nil
}

// maxUntil is the last second of the year 9999, beyond which times have no
// text in RFC 3339.
const maxUntil = 253402300799

// AppendWelcome appends the relay's consent, which lasts until the given time
// (cut to the years 1970 to 9999).
func AppendWelcome(b []byte, version uint16, until time.Time) []byte {
	b = header(b, Welcome, 10)
	b = binary.BigEndian.AppendUint16(b, version)
	return binary.BigEndian.AppendUint64(b, uint64(min(max(until.Unix(), 0), maxUntil)))
}

// ParseWelcome reads the relay's consent.
func ParseWelcome(body []byte) (version uint16, until time.Time, err error) {
	if err := within(Welcome, body); err != nil {
		return 0, until, err
	}
	if version = binary.BigEndian.Uint16(body); version == 0 {
		return 0, until, defect(Welcome, "version 0")
	}
	end := binary.BigEndian.Uint64(body[2:])
	if end > maxUntil {
		return 0, until, defect(Welcome, "admission ends after the year 9999")
	}
	return version, time.Unix(int64(end), 0), nil
}

// AppendGone appends the notice that node is not connected here.
func AppendGone(b []byte, node key.NodeID) []byte {
	return append(header(b, Gone, NodeSize), node[:]...)
}

// ParseGone reads the node that is not connected.
func ParseGone(body []byte) (node key.NodeID, err error) {
	if err := within(Gone, body); err != nil {
		return node, err
	}
	return key.NodeID(body), nil
}

// AppendHere appends the notice that node has come.
func AppendHere(b []byte, node key.NodeID) []byte {
	return append(header(b, Here, NodeSize), node[:]...)
}

// ParseHere reads the node that has come.
func ParseHere(body []byte) (node key.NodeID, err error) {
	if err := within(Here, body); err != nil {
		return node, err
	}
	return key.NodeID(body), nil
}

// maxDrain bounds the durations of a drain: a relay that wants to be left
// alone for longer is taken out of the signed relays leaf.
const maxDrain = time.Hour

// AppendDrain asks the node to leave at a moment between after and
// after+spread. Durations are cut to whole milliseconds and to an hour.
func AppendDrain(b []byte, after, spread time.Duration) []byte {
	b = header(b, Drain, 8)
	for _, d := range []time.Duration{after, spread} {
		b = binary.BigEndian.AppendUint32(b, uint32(min(max(d, 0), maxDrain).Milliseconds()))
	}
	return b
}

// ParseDrain reads when to leave.
func ParseDrain(body []byte) (after, spread time.Duration, err error) {
	if err := within(Drain, body); err != nil {
		return 0, 0, err
	}
	after = time.Duration(binary.BigEndian.Uint32(body)) * time.Millisecond
	spread = time.Duration(binary.BigEndian.Uint32(body[4:])) * time.Millisecond
	if after > maxDrain || spread > maxDrain {
		return 0, 0, defect(Drain, "%v and %v, each at most an hour", after, spread)
	}
	return after, spread, nil
}

// AppendRefusal appends the relay's last frame. The text is cut to what fits;
// what may not stand in it is replaced.
func AppendRefusal(b []byte, r *Refusal) []byte {
	text := plain(r.Text)
	b = header(b, Refuse, 1+len(text))
	b = append(b, byte(r.Kind))
	return append(b, text...)
}

// ParseRefusal reads why the relay ends the connection.
func ParseRefusal(body []byte) (*Refusal, error) {
	if err := within(Refuse, body); err != nil {
		return nil, err
	}
	r := &Refusal{Kind: Kind(body[0]), Text: string(body[1:])}
	if r.Kind == 0 {
		return nil, defect(Refuse, "kind 0")
	}
	if !utf8.ValidString(r.Text) || strings.ContainsFunc(r.Text, unprintable) {
		return nil, defect(Refuse, "text is not printable UTF-8")
	}
	return r, nil
}

// unprintable also covers what turns the direction of a terminal's text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// plain makes s fit for a refusal: printable UTF-8 of at most MaxText bytes.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r // also maps invalid bytes to U+FFFD
	}, s)
	if len(s) <= MaxText {
		return s
	}
	s = s[:MaxText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// within checks a body against the bounds of its type.
func within(t Type, body []byte) error {
	r, ok := rules(t)
	if !ok {
		return defect(t, "unknown")
	}
	return r.check(t, uint64(len(body)))
}

func (r rule) check(t Type, n uint64) error {
	if n < uint64(r.min) || n > uint64(r.max) {
		return defect(t, "body of %d bytes, want %s", n, r.bounds())
	}
	return nil
}

func (r rule) bounds() string {
	if r.min == r.max {
		return fmt.Sprint(r.min)
	}
	return fmt.Sprintf("%d to %d", r.min, r.max)
}
