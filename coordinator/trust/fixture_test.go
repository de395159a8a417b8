package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/writmesh/writ/coordinator/key"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// named is the signing key of a name and a seed of 32 equal bytes.
func named(name string, seed byte) SigningKey {
	b := [ed25519.SeedSize]byte{}
	for i := range b {
		b[i] = seed
	}
	pub := ed25519.NewKeyFromSeed(b[:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(name, pub)
	if err != nil {
		panic(err)
	}
	hash := strings.Split(vkey, "+")[1]
	k, err := ParseSigningKey("PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, b[:]...)))
	if err != nil {
		panic(err)
	}
	return k
}

// The keys of the vectors: r sign roots, p manifests, a admissions and ended
// lists; x is in no root document.
var (
	r1, r2, r3 = named("root-1", 1), named("root-2", 2), named("root-3", 3)
	r4         = named("root-4", 4)
	p1, p2     = named("policy-1", 11), named("policy-2", 12)
	a1, a2     = named("admission-1", 21), named("admission-2", 22)
	x1         = named("stranger", 99)
	noon       = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func vkeys(keys ...SigningKey) (out []VKey) {
	for _, k := range keys {
		out = append(out, k.Public())
	}
	return out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// firstRoot is version 1: two of three root keys, two of two policy keys, one of
// two admission keys.
var firstRoot = sync.OnceValue(func() *Root {
	return must(NewRoot(Root{
		Version: 1, Epoch: 1, Issued: noon,
		RootThreshold: 2, RootKeys: vkeys(r1, r2, r3),
		PolicyThreshold: 2, PolicyKeys: vkeys(p1, p2),
		AdmissionThreshold: 1, AdmissionKeys: vkeys(a1, a2),
		SealKeys: []key.SealPublic{must(key.ParseSealPrivate("sealkey:aqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb6ibbeirq")).Public()},
		Signers:  []string{`erin@acme.example namespaces="git" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti`},
	}))
})

// secondRoot replaces one root key and raises the epoch.
var secondRoot = sync.OnceValue(func() *Root {
	first := firstRoot()
	r := *first
	r.Version, r.Prev, r.Epoch, r.Issued = 2, first.Hash(), 2, noon.Add(time.Hour)
	r.RootKeys = vkeys(r2, r3, r4)
	return must(NewRoot(r))
})

func exampleManifest() *Manifest {
	root := firstRoot()
	h := func(s string) key.Hash { return key.HashOf([]byte(s)) }
	return must(NewManifest(Manifest{
		Network: root.Network, Root: root.Hash(), Position: Position{1, noon.Unix() + 5}, Prev: h("previous manifest"),
		Commit: Commit(strings.Repeat("0123456789", 4)), Base: Commit(strings.Repeat("89abcdef", 8)),
		Source: h("source"), Compiler: "writ/0.1.0", Issued: noon, Leaves: 12, Tree: h("tree"),
		NetworkLeaf: h("network"), RelaysLeaf: h("relays"), Ended: h("ended"), EndedNumber: 3,
		Inventory: h("inventory"), Origins: h("origins"), Changes: h("changes"),
	}))
}

// firstManifest is one of which everything optional is none.
func firstManifest() *Manifest {
	m := *exampleManifest()
	m.Prev, m.Base, m.Inventory, m.Origins, m.Changes = key.Hash{}, "", key.Hash{}, key.Hash{}, key.Hash{}
	return must(NewManifest(m))
}

func node(i byte) key.NodeID { return key.NodeID{i, 31: i} }

func exampleEnded() *Ended {
	return must(NewEnded(Ended{
		Network: firstRoot().Network, Epoch: 1, Number: 3, Issued: noon,
		Nodes: map[key.NodeID]string{node(0xff): "revoked", node(1): "pin", node(0x80): "enrolment"},
	}))
}

func signed(text string, keys ...SigningKey) []byte { return must(Sign(text, keys...)) }

// A vector is a note that is accepted.
type vector struct {
	file string
	msg  []byte
	open func(msg []byte) (text string, err error)
	sign []SigningKey // who signed it: as many as are needed, no more
}

func openRoot1(msg []byte) (string, error) {
	r, err := OpenFirstRoot(msg, firstRoot().Network)
	if err != nil {
		return "", err
	}
	return r.Text(), nil
}

func openRoot2(msg []byte) (string, error) {
	r, err := OpenNextRoot(msg, firstRoot())
	if err != nil {
		return "", err
	}
	return r.Text(), nil
}

func openManifest(msg []byte) (string, error) {
	m, err := OpenManifest(msg, firstRoot())
	if err != nil {
		return "", err
	}
	return m.Text(), nil
}

func openEnded(msg []byte) (string, error) {
	e, err := OpenEnded(msg, firstRoot())
	if err != nil {
		return "", err
	}
	return e.Text(), nil
}

var vectors = sync.OnceValue(func() []vector {
	v := func(file, text string, open func([]byte) (string, error), keys ...SigningKey) vector {
		return vector{file, signed(text, keys...), open, keys}
	}
	return []vector{
		v("root-1", firstRoot().Text(), openRoot1, r1, r3),
		v("root-2", secondRoot().Text(), openRoot2, r2, r3),
		v("manifest", exampleManifest().Text(), openManifest, p1, p2),
		v("manifest-first", firstManifest().Text(), openManifest, p1, p2),
		v("manifest-break-glass", exampleManifest().Text(), openManifest, r1, r2),
		v("ended", exampleEnded().Text(), openEnded, a2),
		v("ended-emergency", exampleEnded().Text(), openEnded, r2, r3),
	}
})

// The notes in testdata are what other implementations must write and read: a
// change of them is a change of the format. Ed25519 signatures are
// deterministic, and so the signatures are part of them.
func TestVectors(t *testing.T) {
	var keys strings.Builder
	for _, k := range []SigningKey{r1, r2, r3, r4, p1, p2, a1, a2, x1} {
		fmt.Fprintf(&keys, "%s\n  %s\n", k.Public(), k.Secret())
	}
	golden(t, "testdata/keys.txt", keys.String())
	var hashes strings.Builder
	for _, v := range vectors() {
		golden(t, "testdata/"+v.file+".txt", string(v.msg))
		want, _, _ := strings.Cut(string(v.msg), "\n\n")
		text, err := v.open(v.msg)
		if err != nil || text != want+"\n" {
			t.Errorf("%s: got\n%s\n%v", v.file, text, err)
		}
		fmt.Fprintf(&hashes, "%-20s %s\n", v.file, key.HashOf([]byte(text)))
	}
	golden(t, "testdata/hashes.txt", hashes.String())
}

// The network's id is the hash of version 1, and stays it.
func TestNetworkID(t *testing.T) {
	first, second := firstRoot(), secondRoot()
	if first.Network != key.NetworkID(key.HashOf([]byte(first.Text()))) || second.Network != first.Network {
		t.Errorf("got %s and %s", first.Network, second.Network)
	}
}
