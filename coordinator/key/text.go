package key

import (
	"encoding/base32"
	"fmt"
	"strings"
)

// size is the length of every key and hash of this package, in bytes.
const size = 32

// encoding is RFC 4648 base32 in lower case without padding: safe in file
// names, URLs and signed notes, and read aloud without "capital" and "small".
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// textLen is the length of 32 bytes in that encoding.
const textLen = 52

func format(prefix string, b *[size]byte) string {
	return prefix + encoding.EncodeToString(b[:])
}

// parse reads what format writes and nothing else: no upper case, no white
// space, no other length, and no stray bits in the last character, so that a
// value has exactly one text.
func parse(prefix, what, s string) (b [size]byte, err error) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return b, fmt.Errorf("%s: does not begin with %q", what, prefix)
	}
	if len(rest) != textLen {
		return b, fmt.Errorf("%s: %d characters after %q, want %d", what, len(rest), prefix, textLen)
	}
	d, err := encoding.DecodeString(rest)
	if err != nil || len(d) != size || encoding.EncodeToString(d) != rest {
		return b, fmt.Errorf("%s: not lower-case base32", what)
	}
	copy(b[:], d)
	return b, nil
}
