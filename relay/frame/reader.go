package frame

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// A Reader takes frames off one direction of a connection and checks every
// envelope before it reads the body.
type Reader struct {
	br   *bufio.Reader
	from Side
	skip int    // bytes of br that the last frame occupies
	big  []byte // for packets that br cannot hold whole; nil before the first
}

// NewReader reads what the given side sends. A frame that fits br's buffer is
// returned without being copied.
func NewReader(br *bufio.Reader, from Side) *Reader {
	return &Reader{br: br, from: from}
}

// jumbo is the longest body with a packet in it.
const jumbo = NodeSize + MaxPacket

// Next returns the next frame that this package knows; frames that may be
// skipped are. The body is valid until Next is called again. The error is
// io.EOF at the end of the stream, a *Defect where the other end violates the
// protocol, or what the connection says.
func (r *Reader) Next() (Type, []byte, error) {
	for {
		if _, err := r.br.Discard(r.skip); err != nil {
			return 0, nil, fmt.Errorf("read frame: %w", err)
		}
		r.skip = 0
		h, err := r.br.Peek(HeaderSize)
		if err != nil {
			if err == io.EOF && len(h) > 0 {
				err = io.ErrUnexpectedEOF
			}
			if err == io.EOF {
				return 0, nil, err
			}
			return 0, nil, fmt.Errorf("read frame: %w", err)
		}
		t, n := Type(h[0]), binary.BigEndian.Uint32(h[1:])
		known, err := r.check(t, n)
		if err != nil {
			return 0, nil, err
		}
		if !known {
			if _, err := r.br.Discard(HeaderSize + int(n)); err != nil {
				return 0, nil, fmt.Errorf("skip %v: %w", t, truncated(err))
			}
			continue
		}
		body, err := r.body(int(n))
		if err != nil {
			return 0, nil, fmt.Errorf("read %v: %w", t, truncated(err))
		}
		return t, body, nil
	}
}

// check judges an envelope. It is false for a frame to skip.
func (r *Reader) check(t Type, n uint32) (known bool, err error) {
	rule, ok := rules(t)
	if !ok {
		if t&ignorable == 0 {
			return false, defect(t, "unknown type")
		}
		if n > MaxBody {
			return false, defect(t, "body of %d bytes, at most %d", n, MaxBody)
		}
		return false, nil
	}
	if rule.from != r.from {
		return false, defect(t, "sent by a %v", r.from)
	}
	return true, rule.check(t, uint64(n))
}

func (r *Reader) body(n int) ([]byte, error) {
	if HeaderSize+n <= r.br.Size() {
		b, err := r.br.Peek(HeaderSize + n)
		if err != nil {
			return nil, err
		}
		r.skip = len(b)
		return b[HeaderSize:], nil
	}
	if _, err := r.br.Discard(HeaderSize); err != nil {
		return nil, err
	}
	if n <= jumbo {
		if r.big == nil {
			r.big = make([]byte, jumbo)
		}
		_, err := io.ReadFull(r.br, r.big[:n])
		return r.big[:n], err
	}
	// Papers: the buffer grows with what arrives, not with what was announced.
	var papers bytes.Buffer
	_, err := io.CopyN(&papers, r.br, int64(n))
	return papers.Bytes(), err
}

// truncated turns the end of the stream inside a frame into what it is.
func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
