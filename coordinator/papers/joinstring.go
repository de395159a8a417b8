package papers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// A JoinString is what an administrator hands out: which network, and where and
// under which key its coordinators are. It is not secret and admits nobody; it
// is why nothing is trusted on first use.
//
// Its text is "writ1_", the base64url of the JSON, and eight hexadecimal digits
// of its CRC-32 (IEEE), so that a text damaged in copying is told apart from a
// wrong one. White space around and inside is ignored.
type JoinString struct {
	Network      key.NetworkID      `json:"network"`
	Coordinators []leaf.Coordinator `json:"coordinators"`
	Secret       string             `json:"secretFile,omitempty"` // names a file on the node with the enrolment secret
}

// JoinPrefix begins every join string.
const JoinPrefix = "writ1_"

const (
	maxJoinString = 8 << 10
)

func (j JoinString) String() string {
	b, err := json.Marshal(j)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s%s%08x", JoinPrefix, base64.RawURLEncoding.EncodeToString(b), crc32.ChecksumIEEE(b))
}

// ReadJoinString reads a join string, or the file of that name which holds one.
func ReadJoinString(s string) (j JoinString, err error) {
	if !strings.HasPrefix(s, JoinPrefix) {
		b, err := os.ReadFile(s)
		if err != nil {
			return j, fmt.Errorf("join string: neither the text, which begins with %q, nor a file that holds it: %w", JoinPrefix, err)
		}
		s = string(b)
	}
	return ParseJoinString(s)
}

// ParseJoinString reads what String writes.
func ParseJoinString(s string) (j JoinString, err error) {
	if len(s) > maxJoinString {
		return j, fmt.Errorf("join string of %d bytes: at most %d", len(s), maxJoinString)
	}
	s = strings.Join(strings.Fields(s), "")
	rest, ok := strings.CutPrefix(s, JoinPrefix)
	if !ok {
		return j, fmt.Errorf("join string: does not begin with %q", JoinPrefix)
	}
	if len(rest) < 8 {
		return j, errors.New("join string: damaged: too short")
	}
	text, sum := rest[:len(rest)-8], rest[len(rest)-8:]
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || fmt.Sprintf("%08x", crc32.ChecksumIEEE(b)) != sum {
		return j, errors.New("join string: damaged: a character is missing or changed")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return JoinString{}, fmt.Errorf("join string: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return JoinString{}, errors.New("join string: data after the end")
	}
	if j.Network.IsZero() || len(j.Coordinators) == 0 || len(j.Coordinators) > 16 {
		return JoinString{}, errors.New("join string: want a network and 1 to 16 coordinators")
	}
	for _, c := range j.Coordinators {
		if host, port, err := net.SplitHostPort(c.Addr); err != nil || host == "" || port == "" || c.Pin.IsZero() {
			return JoinString{}, fmt.Errorf("join string: coordinator %q: want host:port and a pin", c.Addr)
		}
	}
	return j, nil
}
