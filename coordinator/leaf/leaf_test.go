package leaf

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
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

// hashNode, slowRoot and slowPath are RFC 6962 section 2.1 as it stands there:
// MTH and PATH by recursion, over hashes of leaves.
func hashNode(l, r [32]byte) [32]byte {
	return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:]))
}

func hashLeaf(b []byte) [32]byte { return sha256.Sum256(append([]byte{0}, b...)) }

func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func slowRoot(leaves [][32]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	default:
		k := split(n)
		return hashNode(slowRoot(leaves[:k]), slowRoot(leaves[k:]))
	}
}

func slowPath(m int, leaves [][32]byte) [][32]byte {
	n := len(leaves)
	if n <= 1 {
		return nil
	}
	k := split(n)
	if m < k {
		return append(slowPath(m, leaves[:k]), slowRoot(leaves[k:]))
	}
	return append(slowPath(m-k, leaves[k:]), slowRoot(leaves[:k]))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The inputs and answers that Certificate Transparency's own implementations
// are tested with. They prove the slow tree; the slow tree proves ours.
func TestSlowTreeIsRFC6962(t *testing.T) {
	var leaves [][32]byte
	for _, in := range []string{
		"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
	} {
		leaves = append(leaves, hashLeaf(unhex(t, in)))
	}
	for i, want := range []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	} {
		if got := fmt.Sprintf("%x", slowRoot(leaves[:i])); got != want {
			t.Errorf("root of %d: got %s, want %s", i, got, want)
		}
	}
	for _, c := range []struct {
		leaf, size int
		want       string
	}{
		{0, 1, ""},
		{0, 8, "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7 5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e 6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"},
		{5, 8, "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0 d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"},
		{2, 3, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"},
		{1, 5, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d 5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"},
	} {
		var got []string
		for _, h := range slowPath(c.leaf, leaves[:c.size]) {
			got = append(got, fmt.Sprintf("%x", h))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("path of leaf %d of %d: got %s, want %s", c.leaf, c.size, got, c.want)
		}
	}
}

// slowTree hashes records as the package comment says.
func slowTree(records []Record) (leaves [][32]byte) {
	for _, r := range records {
		leaves = append(leaves, hashLeaf(slices.Concat(r.Name[:], r.Leaf[:])))
	}
	return leaves
}

func TestTreeIsRFC6962(t *testing.T) {
	for n := range 70 {
		var leaves []Leaf
		for i := range n {
			leaves = append(leaves, Leaf{fmt.Sprintf("node/n%d", i), []byte{byte(i)}})
		}
		tree, err := TreeOf(leaves)
		if err != nil {
			t.Fatal(err)
		}
		slow := slowTree(tree.Records())
		if got, want := tree.Root(), key.Hash(slowRoot(slow)); got != want {
			t.Errorf("root of %d leaves: got %s, want %s", n, got, want)
		}
		if tree.Size() != int64(n) {
			t.Errorf("size: got %d, want %d", tree.Size(), n)
		}
		for i, r := range tree.Records() {
			if i > 0 && compareNames(tree.Records()[i-1].Name, r.Name) >= 0 {
				t.Errorf("record %d of %d is out of order", i, n)
			}
		}
		for _, l := range leaves {
			p, err := tree.Prove(l.Name)
			if err != nil || len(p.Entries) != 1 {
				t.Fatalf("prove %s: %v, %v", l.Name, p, err)
			}
			e := p.Entries[0]
			var want []key.Hash
			for _, h := range slowPath(int(e.Index), slow) {
				want = append(want, h)
			}
			if !slices.Equal(e.Path, want) {
				t.Errorf("path of %s in a tree of %d: got %v, want %v", l.Name, n, e.Path, want)
			}
			if h, ok := tree.Has(l.Name); !ok || h != l.Hash() {
				t.Errorf("has %s: got %s, %v", l.Name, h, ok)
			}
		}
		if h, ok := tree.Has("node/absent"); ok {
			t.Errorf("has an absent leaf: %s", h)
		}
	}
}

func TestTreeRefusesTwoOfOneName(t *testing.T) {
	for _, second := range []string{"a", "b"} {
		_, err := TreeOf([]Leaf{{"x", []byte("a")}, {"y", nil}, {"x", []byte(second)}})
		if err == nil || !strings.HasPrefix(err.Error(), "tree: two leaves of one name (H(name) sha256:") {
			t.Errorf("content %s: got %v", second, err)
		}
	}
}

func TestTreeOfAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaves := drawLeaves(t)
		a, err := TreeOf(leaves)
		if err != nil {
			t.Fatal(err)
		}
		before := slices.Clone(leaves)
		b, err := TreeOf(rapid.Permutation(leaves).Draw(t, "order"))
		if err != nil {
			t.Fatal(err)
		}
		if a.Root() != b.Root() || !slices.Equal(a.Records(), b.Records()) {
			t.Errorf("roots of two orders: %s and %s", a.Root(), b.Root())
		}
		for i := range before {
			if before[i].Name != leaves[i].Name {
				t.Error("TreeOf reordered its argument")
			}
		}
	})
}

// drawLeaves draws leaves of distinct names.
func drawLeaves(t *rapid.T) (out []Leaf) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-e]/[a-z0-9]{1,3}`), 0, 24, rapid.ID[string]).Draw(t, "names")
	for _, n := range names {
		out = append(out, Leaf{n, []byte(rapid.StringN(0, 2, 4).Draw(t, "content"))})
	}
	return out
}

// examples is a leaf of each kind.
func examples(t testing.TB) []Leaf {
	t.Helper()
	identity := func(i byte) key.IdentityPublic {
		return key.IdentityPrivateFromSeed([32]byte{i}).Public()
	}
	enrol, err := key.ParseEnrolPublic("enrol:japn45znuflylspftiegeanyyp44gbysty74nv7tjksn73kyctsq")
	if err != nil {
		t.Fatal(err)
	}
	until := time.Date(2026, 12, 31, 18, 0, 0, 0, time.UTC)
	sel := func(s string) acl.Selector {
		v, err := acl.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	ports := func(s string) acl.Ports {
		v, err := acl.ParsePorts(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	inbound := acl.Inbound{To: sel("tag:accounting"), Grants: []acl.Grant{{
		Rule:  "accounting-web",
		From:  []acl.Selector{sel("group:accounting"), sel("alice@acme.example")},
		Allow: []acl.Ports{ports("icmp"), ports("tcp/443"), ports("udp/8000-8100"), ports("proto/47")},
		Until: until,
	}, {
		Rule:     "everybody",
		From:     []acl.Selector{sel("*")},
		Except:   []acl.Selector{sel("autogroup:tagged")},
		ToExcept: []acl.Selector{sel("node:ledger-9")},
		Allow:    []acl.Ports{ports("*")},
	}}}
	var out []Leaf
	for _, c := range []struct {
		name    string
		content any
	}{
		{NameNetwork, Network{
			Name: "acme", Domain: "acme.mesh", Prefix4: netip.MustParsePrefix("100.64.0.0/10"), Session: 2592000,
			Coordinators: []Coordinator{{"coordinator.acme.example:443", identity(1)}},
			Admins:       []acl.Selector{sel("group:it")},
		}},
		{NameRelays, Relays{
			[]Relay{{"fra", "relay.acme.example:443", identity(2), []string{"relay.acme.example:3478"}}},
			[]NodeEndpoints{{identity(4).NodeID(), []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:51820")}}},
		}},
		{PrincipalName(sel("bob@acme.example")), Principal{sel("bob@acme.example"), []acl.Membership{{Group: "accounting", Until: until}, {Group: "engineering"}}}},
		{PrincipalName(sel("tag:accounting")), Principal{sel("tag:accounting"), []acl.Membership{}}},
		{InboundName(sel("tag:accounting")), inbound},
		{InboundName(sel("*")), acl.Inbound{To: sel("*"), Grants: []acl.Grant{}}},
		{NodeName("alice-1"), Node{Name: "alice-1", Key: identity(3), User: "alice@acme.example", Address4: netip.MustParseAddr("100.64.0.3")}},
		{NodeName("ledger-0"), Node{Name: "ledger-0", Key: identity(4), Tags: []string{"accounting"}}},
		{EnrolmentName("ledger-fleet"), Enrolment{Name: "ledger-fleet", Key: enrol, Tags: []string{"accounting"}, Names: []string{"ledger-*"}}},
	} {
		l, err := Encode(c.name, c.content)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// The bytes in testdata are what other implementations must write: a change of
// them is a change of the format.
func TestVectors(t *testing.T) {
	var b strings.Builder
	leaves := examples(t)
	for _, l := range leaves {
		fmt.Fprintf(&b, "leaf %s\n  H(name) %s\n  H(leaf) %s\n  %s", l.Name, NameHash(l.Name), l.Hash(), l.Data)
	}
	tree, err := TreeOf(leaves)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "tree of %d\n  %s\n", tree.Size(), tree.Root())
	for i, r := range tree.Records() {
		fmt.Fprintf(&b, "  record %d %s %s\n", i, r.Name, r.Leaf)
	}
	for _, name := range []string{NameNetwork, NodeName("ledger-0"), "inbound/autogroup:member", "inbound/tag:it", "principal/zoe@acme.example"} {
		p, err := tree.Prove(name)
		if err != nil {
			t.Fatal(err)
		}
		_, present, err := p.Check(tree.Root(), tree.Size(), name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "proof of %s, present: %v, entries: %d\n  %x\n", name, present, len(p.Entries), p.Append(nil))
	}
	golden(t, "testdata/vectors.txt", b.String())
	for _, l := range leaves {
		if h := sha256.Sum256([]byte("writ-leaf-name/v1\n" + l.Name)); NameHash(l.Name) != h {
			t.Errorf("H(%s): got %x, want %x", l.Name, NameHash(l.Name), h)
		}
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	a := examples(t)
	for range 20 {
		for i, l := range examples(t) {
			if string(l.Data) != string(a[i].Data) {
				t.Fatalf("%s: got %s, then %s", l.Name, a[i].Data, l.Data)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		leaf    string
		content any
		want    string
	}{
		"name too long":    {strings.Repeat("n", MaxName+1), Node{}, "leaf name of 513 bytes: at most 512"},
		"nobody":           {"inbound/nobody", acl.Inbound{}, "the empty selector has no text"},
		"nobody in a rule": {"inbound/*", acl.Inbound{To: acl.Selector{Kind: acl.KindAny}, Grants: []acl.Grant{{From: []acl.Selector{{}}}}}, "the empty selector has no text"},
		"no ports":         {"inbound/*", acl.Inbound{To: acl.Selector{Kind: acl.KindAny}, Grants: []acl.Grant{{Allow: []acl.Ports{{}}}}}, "the empty port set has no text"},
		"no key":           {"node/x", Node{Name: "x"}, "a point of small order"},
		"no pin":           {"network", Network{Coordinators: []Coordinator{{Addr: "a:1"}}}, "a point of small order"},
		"no enrolment key": {"enrolment/x", Enrolment{Name: "x"}, "a point of small order"},
		"not JSON":         {"network", func() {}, "unsupported type"},
		"too large":        {"network", Network{Name: strings.Repeat("x", MaxSize)}, "bytes, at most 4194304"},
	} {
		_, err := Encode(c.leaf, c.content)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestMaxLeaves(t *testing.T) {
	if testing.Short() {
		t.Skip("a slice of 64 MiB")
	}
	if _, err := NewTree(make([]Record, MaxLeaves+1)); err == nil || err.Error() != "tree of 1048577 leaves: at most 1048576" {
		t.Errorf("got %v", err)
	}
}

// shuffled is leaves in an order of the seed's.
func shuffled(leaves []Leaf, seed uint64) []Leaf {
	out := slices.Clone(leaves)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestTreeOfExamplesInEveryShuffle(t *testing.T) {
	want, err := TreeOf(examples(t))
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(50) {
		got, err := TreeOf(shuffled(examples(t), seed))
		if err != nil || got.Root() != want.Root() {
			t.Errorf("seed %d: got %s, %v, want %s", seed, got.Root(), err, want.Root())
		}
	}
}
