package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

type frameType byte

const (
	frameSetup    frameType = 1
	frameReady    frameType = 2
	frameRefused  frameType = 3
	frameCall     frameType = 4
	frameAnswer   frameType = 5
	frameFailed   frameType = 6
	framePanicked frameType = 7
)

// slack is what a frame may hold beside a request: its type, a name, a budget.
const slack = 1 + 1 + 255 + 8

var errFrame = errors.New("malformed frame")

// writeFrame writes one frame whose body is the concatenation of parts.
func writeFrame(w io.Writer, t frameType, parts ...[]byte) error {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	head := binary.BigEndian.AppendUint32(make([]byte, 0, 5), uint32(n))
	if _, err := w.Write(append(head, byte(t))); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// readFrame reads one frame of at most limit bytes of body. Memory grows with
// what arrives, not with what the length claims. The error is io.EOF only where
// the stream ends between frames.
func readFrame(r io.Reader, limit int) (frameType, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n == 0 || n > int64(limit)+1 {
		return 0, nil, fmt.Errorf("%w: length %d, limit %d", errFrame, n, limit)
	}
	var b bytes.Buffer
	b.Grow(int(min(n, 64<<10)))
	if _, err := io.CopyN(&b, r, n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	body := b.Bytes()
	return frameType(body[0]), body[1:], nil
}

// A call is the body of frameCall.
type call struct {
	name    string
	budget  time.Duration
	request []byte
}

// head is everything of the call's body before the request.
func (c call) head() []byte {
	b := append([]byte{byte(len(c.name))}, c.name...)
	return binary.BigEndian.AppendUint64(b, uint64(c.budget))
}

func parseCall(b []byte) (call, error) {
	if len(b) < 1 || len(b) < 1+int(b[0])+8 {
		return call{}, fmt.Errorf("%w: call of %d bytes", errFrame, len(b))
	}
	n := int(b[0])
	c := call{
		name:    string(b[1 : 1+n]),
		budget:  time.Duration(binary.BigEndian.Uint64(b[1+n:])),
		request: b[1+n+8:],
	}
	if c.budget <= 0 {
		return call{}, fmt.Errorf("%w: call without time", errFrame)
	}
	return c, nil
}
