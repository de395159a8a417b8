package stun

import (
	"bytes"
	"testing"
)

// TestCut: an attribute that is whole with its padding, and none of its prefixes.
func TestCut(t *testing.T) {
	whole := unhex(t, "80220005 7772697421 ffffff")
	behind := []byte{1, 2, 3, 4}
	a, rest, ok := cut(append(bytes.Clone(whole), behind...))
	if !ok || a.kind != attrSoftware || string(a.value) != "writ!" || !bytes.Equal(rest, behind) {
		t.Errorf("got 0x%04x %q, %x behind it, %v; want 0x%04x %q, %x", a.kind, a.value, rest, ok, attrSoftware, "writ!", behind)
	}
	for n := range whole {
		if a, _, ok := cut(whole[:n:n]); ok {
			t.Errorf("%x: got 0x%04x %x, want nothing", whole[:n], a.kind, a.value)
		}
	}
}
