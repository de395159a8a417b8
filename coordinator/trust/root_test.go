package trust

import (
	"crypto/ed25519"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/writmesh/writ/coordinator/key"
)

// next is a root document after prev with the same keys, edited and signed by
// all of them.
func next(t *testing.T, prev *Root, edit func(*Root)) []byte {
	t.Helper()
	r := *prev
	r.Version, r.Prev = prev.Version+1, prev.Hash()
	if edit != nil {
		edit(&r)
	}
	n, err := NewRoot(r)
	if err != nil {
		t.Fatal(err)
	}
	return signed(n.Text(), r1, r2, r3)
}

func TestOpenNextRoot(t *testing.T) {
	first := firstRoot()
	raised := must(OpenNextRoot(next(t, first, func(r *Root) { r.Epoch = 3 }), first))
	for name, c := range map[string]struct {
		msg  []byte
		held *Root
		want string
	}{
		"the next":            {next(t, first, nil), first, ""},
		"same epoch":          {next(t, raised, nil), raised, ""},
		"epoch raised":        {next(t, raised, func(r *Root) { r.Epoch = 9 }), raised, ""},
		"epoch goes back":     {next(t, raised, func(r *Root) { r.Epoch = 2 }), raised, "root document: epoch 2 after 3"},
		"the one held":        {next(t, first, func(r *Root) { r.Epoch = 3 }), raised, "root document: version 2, want 3"},
		"version plus two":    {next(t, raised, func(r *Root) { r.Version = 4 }), raised, "root document: version 4, want 3"},
		"version 1 again":     {signed(first.Text(), r1, r2, r3), raised, "root document: version 1, want 3"},
		"another network":     {next(t, raised, func(r *Root) { r.Network = key.NetworkID{9} }), raised, "root document: of network " + key.NetworkID{9}.String() + ", want " + first.Network.String()},
		"prev of another":     {next(t, raised, func(r *Root) { r.Prev = first.Hash() }), raised, "root document: prev is not the version held"},
		"fork of version 2":   {next(t, must(OpenNextRoot(next(t, first, nil), first)), nil), raised, "root document: prev is not the version held"},
		"version 2 after two": {next(t, raised, nil), first, "root document: version 3, want 2"},
	} {
		r, err := OpenNextRoot(c.msg, c.held)
		if c.want == "" && (err != nil || r.Version != c.held.Version+1 || r.Network != first.Network) || c.want != "" && (err == nil || err.Error() != c.want || r != nil) {
			t.Errorf("%s: got %v, %v, want %s", name, r, err, c.want)
		}
	}
}

// The signatures of both thresholds are needed, each counted in its own keys.
func TestRootRotation(t *testing.T) {
	first := firstRoot() // 2 of r1 r2 r3
	second := secondRoot()
	for name, c := range map[string]struct {
		signers []SigningKey
		want    string
	}{
		"both in common":      {[]SigningKey{r2, r3}, ""},
		"one in common, each": {[]SigningKey{r1, r2, r4}, ""},
		"all":                 {[]SigningKey{r1, r2, r3, r4}, ""},
		"old alone":           {[]SigningKey{r1, r2}, "root document: by itself: 1 of 2 needed keys signed: not signed to threshold"},
		"new alone":           {[]SigningKey{r2, r4}, "root document: by version 1: 1 of 2 needed keys signed: not signed to threshold"},
		"one of each":         {[]SigningKey{r1, r4}, "root document: by itself: 1 of 2 needed keys signed: not signed to threshold"},
		"online keys":         {[]SigningKey{p1, p2, a1, a2}, "root document: by itself: none of the 3 keys in force signed: not signed to threshold"},
	} {
		_, err := OpenNextRoot(signed(second.Text(), c.signers...), first)
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// Manifests and lists are judged by the keys and thresholds of the root given.
func TestRootDecidesKeys(t *testing.T) {
	first := firstRoot()
	lab := *first
	lab.RootThreshold, lab.PolicyThreshold = 1, 1
	one := must(NewRoot(lab))
	m := *exampleManifest()
	m.Network = one.Network
	text := must(NewManifest(m)).Text()
	for name, c := range map[string]struct {
		signer SigningKey
		ok     bool
	}{"policy key": {p1, true}, "other policy key": {p2, true}, "root key": {r1, true}, "admission key": {a1, false}, "stranger": {x1, false}} {
		if _, err := OpenManifest(signed(text, c.signer), one); (err == nil) != c.ok {
			t.Errorf("manifest by %s: got %v", name, err)
		}
	}
	if _, err := OpenManifest(signed(text, p1), first); err == nil {
		t.Error("one policy key is enough where two are needed")
	}
}

func TestNewRootSortsKeys(t *testing.T) {
	r := *firstRoot()
	r.RootKeys = vkeys(r3, r1, r2)
	if n, err := NewRoot(r); err != nil || n.Hash() != firstRoot().Hash() {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestNewRootRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Root)
		want string
	}{
		"version 0":          {func(r *Root) { r.Version = 0 }, "root document: version 0"},
		"no keys":            {func(r *Root) { r.AdmissionKeys = nil }, "root document: admission threshold 1 of 0 keys"},
		"threshold 0":        {func(r *Root) { r.PolicyThreshold = 0 }, "root document: policy threshold 0 of 2 keys"},
		"threshold negative": {func(r *Root) { r.PolicyThreshold = -1 }, "root document: line 11: policy-threshold: not a number from 0 to 2^62"},
		"a key twice":        {func(r *Root) { r.RootKeys = vkeys(r1, r1, r2) }, "root document: root keys are not sorted"},
		"one key, two names": {func(r *Root) { r.RootKeys = vkeys(r1, named("z", 1)) }, "root document: root key z stands twice"},
		"33 keys":            {func(r *Root) { r.PolicyKeys = manyVKeys(33) }, `root document: line 44: more than 32 lines of "policy-key"`},
		"33 seal keys":       {func(r *Root) { r.SealKeys = make([]key.SealPublic, 33) }, `root document: line 49: more than 32 lines of "seal-key"`},
		"257 signers":        {func(r *Root) { r.Signers = strings.Split(strings.Repeat("x ", 257)[:513], " ") }, `root document: line 274: more than 256 lines of "signer"`},
		"a line in a signer": {func(r *Root) { r.Signers = []string{"x\nsigner mallory"} }, "root document: line 18: signer: empty, or with spaces around it or control characters in it"},
		"empty signer":       {func(r *Root) { r.Signers = []string{""} }, "root document: line 18: signer: empty, or with spaces around it or control characters in it"},
	} {
		r := *firstRoot()
		c.edit(&r)
		if n, err := NewRoot(r); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, n, err, c.want)
		}
	}
	full := *firstRoot()
	full.PolicyKeys = manyVKeys(32)
	if _, err := NewRoot(full); err != nil {
		t.Errorf("32 keys: %v", err)
	}
}

func manyVKeys(n int) (out []VKey) {
	for line := range strings.Lines(manyKeys("k", n)) {
		out = append(out, must(ParseVKey(strings.TrimSpace(line[2:]))))
	}
	return out
}

// Two keys of one name with one 32-bit hash: found by trying 97,132 seeds. No
// signature could be told from the other's, and every note of that role would
// be refused as ambiguous.
func TestConfusableKeysRefused(t *testing.T) {
	numbered := func(n uint32) VKey {
		seed := binary.BigEndian.AppendUint32(nil, n)
		public := ed25519.NewKeyFromSeed(append(seed, make([]byte, 28)...)).Public().(ed25519.PublicKey)
		return must(ParseVKey(must(note.NewEd25519VerifierKey("policy", public))))
	}
	a, b := numbered(36995), numbered(97131)
	if a.Equal(b) || a.id() != b.id() {
		t.Fatalf("%s and %s do not collide", a, b)
	}
	r := *firstRoot()
	r.PolicyKeys = []VKey{a, b}
	if _, err := NewRoot(r); err == nil || err.Error() != "root document: two policy keys are both "+a.id() {
		t.Errorf("got %v", err)
	}
	r.PolicyKeys, r.AdmissionKeys = []VKey{a}, []VKey{b}
	r.PolicyThreshold = 1
	if _, err := NewRoot(r); err != nil {
		t.Errorf("in two roles, where they are never mixed: %v", err)
	}
}
