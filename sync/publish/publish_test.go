package publish

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
)

func TestWhatARevisionSays(t *testing.T) {
	w := netmaptest.New(t, noon)
	p := open(t, t.TempDir(), w)
	if p.Current() != nil {
		t.Error("a revision before the first")
	}
	out := ids(1)[0]
	c := compiled(t, 1, "alice:a,b bob:b")
	c.Judged, c.Ending = key.HashOf([]byte("log")), map[key.NodeID]string{out: "pin"}
	r := decide(t, p, c, noon.Add(400*time.Millisecond))
	mnote, enote := notes(t, p, r)
	m, err := trust.OpenManifest([]byte(mnote), w.Root)
	if err != nil {
		t.Fatal(err)
	}
	e, err := trust.OpenEnded([]byte(enote), w.Root)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(name string) key.Hash {
		i := slices.IndexFunc(c.Leaves, func(l leaf.Leaf) bool { return l.Name == name })
		return key.HashOf(c.Leaves[i].Data)
	}
	want := trust.Manifest{
		Network: w.Network, Root: w.Root.Hash(), Position: trust.Position{Epoch: 1, Seq: noon.Unix()},
		Commit: commit(1), Source: c.Source, Compiler: "writ/test", Issued: noon, Leaves: 4, Tree: r.Tree.Root(),
		NetworkLeaf: hash("network"), RelaysLeaf: hash("relays"), Ended: e.Hash(), EndedNumber: 1,
		Inventory: c.Judged, Origins: key.HashOf(c.Origins), Changes: key.HashOf(r.Changes),
	}
	if m.Text() != want.Text() {
		t.Errorf("got\n%swant\n%s", m.Text(), want.Text())
	}
	if e.Number != 1 || e.Nodes[out] != "pin" || len(e.Nodes) != 1 {
		t.Errorf("ended list %d of %v, want 1 of %s", e.Number, e.Nodes, out)
	}
	if p.Current() != r {
		t.Error("it is not the current one")
	}
}

func TestSameCommitSameBytes(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	p := open(t, dir, w)
	decide(t, p, compiled(t, 1, "alice:a"), noon)
	c := compiled(t, 2, "alice:a bob:a")
	c.Ending = map[key.NodeID]string{ids(1)[0]: "pin"}
	first := decide(t, p, c, noon.Add(time.Hour))
	manifest, ended := notes(t, p, first)

	same := func(when string, p *Publisher, r *Revision) {
		t.Helper()
		m, e := notes(t, p, r)
		if m != manifest || e != ended {
			t.Errorf("%s: got\n%s%swant\n%s%s", when, m, e, manifest, ended)
		}
		if !bytes.Equal(r.Changes, first.Changes) || !bytes.Equal(r.Origins, first.Origins) || r.Tree.Root() != first.Tree.Root() {
			t.Errorf("%s: other contents", when)
		}
		if !slices.EqualFunc(r.Leaves, first.Leaves, func(a, b leaf.Leaf) bool { return a.Name == b.Name && bytes.Equal(a.Data, b.Data) }) {
			t.Errorf("%s: other leaves", when)
		}
	}
	same("signed again", p, first)
	same("decided again", p, decide(t, p, c, noon.Add(2*time.Hour)))
	// The same commit that another compiler made something else of, with nobody
	// ending: it is decided already.
	other := compiled(t, 2, "eve:a")
	same("decided again and otherwise", p, decide(t, p, other, noon.Add(2*time.Hour)))

	// Killed after the decision, before anything was signed or handed over.
	again := open(t, dir, w)
	same("after a restart", again, again.Current())
	same("decided after a restart", again, decide(t, again, c, noon.Add(3*time.Hour)))
	next := decide(t, again, compiled(t, 3, "alice:a"), noon.Add(4*time.Hour))
	if next.Manifest.Prev != first.Manifest.Hash() || next.Manifest.Base != commit(2) {
		t.Errorf("the next follows %s (%s), want %s", next.Manifest.Prev, next.Manifest.Base, first.Manifest.Hash())
	}
}

func TestSeqRisesWhateverTheClockDoes(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	last := int64(0)
	for i, c := range []struct {
		now  time.Time
		want int64
	}{
		{noon, noon.Unix()},
		{noon.Add(999 * time.Millisecond), noon.Unix() + 1}, // not moved on
		{noon, noon.Unix() + 2},
		{noon.Add(-time.Hour), noon.Unix() + 3}, // stepped back
		{noon.Add(time.Second), noon.Unix() + 4},
		{noon.Add(time.Minute), noon.Unix() + 60},
		{noon.Add(time.Minute + time.Second).In(time.FixedZone("", 3600)), noon.Unix() + 61},
	} {
		r := decide(t, open(t, dir, w), compiled(t, i+1, "alice:a"), c.now)
		if r.Manifest.Seq != c.want || r.Manifest.Seq <= last {
			t.Errorf("revision %d has seq %d after %d, want %d", i+1, r.Manifest.Seq, last, c.want)
		}
		if want := c.now.UTC().Truncate(time.Second); !r.Manifest.Issued.Equal(want) {
			t.Errorf("revision %d was issued %s, want %s", i+1, r.Manifest.Issued, want)
		}
		last = r.Manifest.Seq
	}
}

func TestEndedListOnlyGrows(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	n := ids(4)
	var held *trust.Ended
	want := map[key.NodeID]string{}
	for i, c := range []struct {
		ending map[key.NodeID]string
		number int64
	}{
		{nil, 1},
		{nil, 1},
		{map[key.NodeID]string{n[0]: "pin", n[1]: "enrolment"}, 2},
		{map[key.NodeID]string{}, 2},
		{map[key.NodeID]string{n[0]: "revoked"}, 2}, // out already
		{map[key.NodeID]string{n[1]: "revoked", n[2]: "revoked"}, 3},
		{nil, 3},
	} {
		comp := compiled(t, i+1, "alice:a")
		comp.Ending = c.ending
		p := open(t, dir, w)
		r := decide(t, p, comp, noon.Add(time.Duration(i)*time.Minute))
		for id, why := range c.ending {
			if want[id] == "" {
				want[id] = why
			}
		}
		if r.Ended.Number != c.number || !maps.Equal(r.Ended.Nodes, want) {
			t.Errorf("revision %d: list %d of %v, want %d of %v", i+1, r.Ended.Number, r.Ended.Nodes, c.number, want)
		}
		if r.Manifest.Ended != r.Ended.Hash() || r.Manifest.EndedNumber != r.Ended.Number {
			t.Errorf("revision %d names another list", i+1)
		}
		if held != nil && held.Number == r.Ended.Number && held.Hash() != r.Ended.Hash() {
			t.Errorf("revision %d: two lists of number %d", i+1, held.Number)
		}
		if _, err := r.Ended.Follows(held); err != nil {
			t.Errorf("revision %d: %v", i+1, err)
		}
		held = r.Ended
	}

	// A new epoch: who was out stays out, and the same commit is a new revision.
	root := *w.Root
	root.Epoch = 2
	w.AddRoot(root)
	p := open(t, dir, w)
	before := p.Current().Manifest
	r := decide(t, p, compiled(t, 7, "alice:a"), noon.Add(time.Hour))
	if r.Ended.Epoch != 2 || r.Ended.Number != 1 || !maps.Equal(r.Ended.Nodes, want) {
		t.Errorf("epoch 2: list %d of epoch %d of %v, want 1 of 2 of %v", r.Ended.Number, r.Ended.Epoch, r.Ended.Nodes, want)
	}
	if r.Manifest.Epoch != 2 || r.Manifest.Commit != before.Commit || r.Manifest.Prev != before.Hash() || r.Manifest.Root != w.Root.Hash() {
		t.Errorf("epoch 2: got\n%s", r.Manifest.Text())
	}
	if _, err := r.Ended.Follows(held); err != nil {
		t.Errorf("epoch 2: %v", err)
	}
	m, _ := notes(t, p, r)
	if _, err := trust.OpenManifest([]byte(m), w.Root); err != nil {
		t.Error(err)
	}
}

// The oracle compares contents by name.
func TestChangeListIsWhatChanged(t *testing.T) {
	w := netmaptest.New(t, noon)
	p := open(t, t.TempDir(), w)
	before := map[string]string{}
	var last *Revision
	for i, users := range []string{"alice:a bob:b", "alice:a bob:b", "alice:b carol:a bob:b", "", "dave:x alice:a"} {
		c := compiled(t, i+1, users)
		r := decide(t, p, c, noon.Add(time.Duration(i)*time.Minute))
		after := map[string]string{}
		for _, l := range c.Leaves {
			after[l.Name] = string(l.Data)
		}
		want := map[key.Hash]leaf.Change{}
		hash := func(m map[string]string, name string) key.Hash {
			if data, ok := m[name]; ok {
				return key.HashOf([]byte(data))
			}
			return key.Hash{}
		}
		for _, m := range []map[string]string{before, after} {
			for name := range m {
				if ch := (leaf.Change{Name: leaf.NameHash(name), Old: hash(before, name), New: hash(after, name)}); ch.Old != ch.New {
					want[ch.Name] = ch
				}
			}
		}
		list, err := leaf.ParseChangeList(r.Changes)
		if err != nil {
			t.Fatal(err)
		}
		got := map[key.Hash]leaf.Change{}
		for _, ch := range list.Changes {
			got[ch.Name] = ch
		}
		if !maps.Equal(got, want) || len(got) != len(list.Changes) {
			t.Errorf("revision %d: changes %v, want %v", i+1, got, want)
		}
		var base key.Hash
		var tree *leaf.Tree
		if last != nil {
			base, tree = last.Manifest.Hash(), last.Tree
		}
		if list.Base != base || list.Network != w.Network || r.Manifest.Prev != base {
			t.Errorf("revision %d: list of %s on %s, want %s", i+1, list.Network, list.Base, base)
		}
		if !slices.Equal(list.Changes, leaf.Diff(tree, r.Tree)) {
			t.Errorf("revision %d: the list is not leaf.Diff", i+1)
		}
		before, last = after, r
	}
}

// What is decided here is what the verifier of every relay and agent adopts, by
// following and from nothing, across epochs.
func TestVerifierAdopts(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	follower := netmap.New(w.Network, key.NodeID{})
	for i, users := range []string{"alice:a", "alice:a bob:b", "bob:b", "bob:b"} {
		if i == 3 {
			root := *w.Root
			root.Epoch = 2
			w.AddRoot(root)
		}
		now := noon.Add(time.Duration(i) * time.Minute)
		c := compiled(t, i+1, users)
		c.Ending = map[key.NodeID]string{ids(1)[0]: "pin"}
		p := open(t, dir, w)
		r := decide(t, p, c, now)
		manifest, ended := notes(t, p, r)
		u := netmap.Update{Roots: w.Roots, Ended: []byte(ended), Revisions: []netmap.Revision{{Manifest: []byte(manifest), Changes: r.Changes}}}
		whole := u
		for _, name := range netmap.Required(nil, nil, "") {
			proof, err := r.Tree.Prove(name)
			if err != nil {
				t.Fatal(err)
			}
			j := slices.IndexFunc(c.Leaves, func(l leaf.Leaf) bool { return l.Name == name })
			whole.Leaves = append(whole.Leaves, netmap.Proved{Name: name, Data: c.Leaves[j].Data, Proof: proof.Append(nil)})
		}
		if i == 0 {
			u = whole
		}
		for who, o := range map[string]netmap.Outcome{
			"a follower": follower.Accept(u, now), "a newcomer": netmap.New(w.Network, key.NodeID{}).Accept(whole, now),
		} {
			if !o.Adopted || len(o.Refused) > 0 || o.State.Manifest().Hash() != r.Manifest.Hash() {
				t.Fatalf("revision %d: %s adopts: %v, refuses %v", i+1, who, o.Adopted, o.Refused)
			}
			if who == "a follower" {
				follower = o.State
			}
		}
	}
}

func TestDamagedStateSignsNothing(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	p := open(t, dir, w)
	decide(t, p, compiled(t, 1, "alice:a"), noon)
	decide(t, p, compiled(t, 2, "alice:a bob:b"), noon)
	name := filepath.Join(dir, "revision.state")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name + ".prev"); err != nil {
		t.Fatalf("the copy before it: %v", err)
	}
	refuses := func(what string) {
		t.Helper()
		p, err := Open(dir, keysOf(w), w.Root)
		if p != nil || err == nil || !strings.Contains(err.Error(), "state file "+name+" is damaged") || !strings.Contains(err.Error(), "nothing is signed until it is recovered") {
			t.Errorf("%s: got %v; want the file named, though its copy is whole", what, err)
		}
	}
	bad := bytes.Clone(whole)
	for at := 0; at < len(bad); at += 7 {
		bad[at] ^= 0x10
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		refuses("flipped")
		bad[at] ^= 0x10
	}
	for at := 0; at < len(whole); at += len(whole)/20 + 1 {
		if err := os.WriteFile(name, whole[:at], 0o600); err != nil {
			t.Fatal(err)
		}
		refuses("truncated")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	refuses("gone")
	if err := os.WriteFile(name, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if cur := open(t, dir, w).Current(); cur.Manifest.Commit != commit(2) {
		t.Errorf("recovered: commit %s, want %s", cur.Manifest.Commit, commit(2))
	}
}

// A file that is whole, and holds what no publisher of this network wrote.
func TestStateThatDoesNotFit(t *testing.T) {
	w, dir := netmaptest.New(t, noon), t.TempDir()
	c := compiled(t, 1, "alice:a")
	decide(t, open(t, dir, w), c, noon)
	content, err := statefile.Read(filepath.Join(dir, "revision.state"), fileKind)
	if err != nil {
		t.Fatal(err)
	}
	other, elsewhere := netmaptest.New(t, noon), t.TempDir()
	decide(t, open(t, elsewhere, other), c, noon)
	foreign, err := statefile.Read(filepath.Join(elsewhere, "revision.state"), fileKind)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*stored)) []byte {
		var s stored
		if err := json.Unmarshal(content, &s); err != nil {
			t.Fatal(err)
		}
		change(&s)
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, x := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"another network's", foreign, "of network " + other.Network.String() + ", want " + w.Network.String()},
		{"a later version", with(func(s *stored) { s.Version = 2 }), "version 2, this program knows 1"},
		{"a field of a later version", []byte(`{"version":1,"approvals":[]}`), "unknown field"},
		{"not JSON", []byte("no"), "invalid character"},
		{"no manifest", with(func(s *stored) { s.Manifest = "" }), "manifest: "},
		{"no ended list", with(func(s *stored) { s.Ended = "" }), "ended list: "},
		{"a leaf lost", with(func(s *stored) { s.Leaves = s.Leaves[1:] }), "the leaves are not the manifest's"},
		{"a leaf twice", with(func(s *stored) { s.Leaves = append(s.Leaves, s.Leaves[0]) }), "two leaves of one name"},
		{"a leaf changed", with(func(s *stored) { s.Leaves[0].Data = []byte("{}\n") }), "the leaves are not the manifest's"},
		{"changes lost", with(func(s *stored) { s.Changes = nil }), "the change list is not the manifest's"},
		{"origins lost", with(func(s *stored) { s.Origins = nil }), "the origins are not the manifest's"},
		{"another ended list", with(func(s *stored) { s.Ended = strings.Replace(s.Ended, "number 1", "number 2", 1) }), "the ended list is not the manifest's"},
	} {
		d := t.TempDir()
		name := filepath.Join(d, "revision.state")
		if err := statefile.Write(name, fileKind, x.content); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(d, keysOf(w), w.Root); p != nil || err == nil || !strings.HasPrefix(err.Error(), name+": ") || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %s: %s", x.name, err, name, x.want)
		}
	}
}

// What cannot be kept is not decided.
func TestStateThatCannotBeWritten(t *testing.T) {
	w, dir := netmaptest.New(t, noon), filepath.Join(t.TempDir(), "gone")
	p := open(t, dir, w)
	if r, err := p.Decide(compiled(t, 1, "alice:a"), noon); r != nil || err == nil {
		t.Errorf("got %v, %v; want an error", r, err)
	}
	if p.Current() != nil {
		t.Error("it is current though it is not on the disk")
	}
}

func TestKeysThatTheRootDoesNotName(t *testing.T) {
	w := netmaptest.New(t, noon)
	stranger, err := trust.NewSigningKey("policy-1")
	if err != nil {
		t.Fatal(err)
	}
	two := func(change func(*trust.Root)) *trust.Root {
		r := *w.Root
		r.PolicyKeys, r.AdmissionKeys = append(slices.Clone(r.PolicyKeys), stranger.Public()), append(slices.Clone(r.AdmissionKeys), stranger.Public())
		r.Version, r.Prev, r.Network = 2, w.Root.Hash(), w.Network
		change(&r)
		root, err := trust.NewRoot(r)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	for _, c := range []struct {
		name string
		keys Keys
		root *trust.Root
		want string
	}{
		{"another policy key", Keys{stranger, w.AdmissionKey}, w.Root, "the policy key policy-1 is not one that the root document names"},
		{"another admission key", Keys{w.PolicyKey, stranger}, w.Root, "the admission key policy-1 is not one that the root document names"},
		{"swapped", Keys{w.AdmissionKey, w.PolicyKey}, w.Root, "the policy key admission-1 is not one that the root document names"},
		{"two policy signatures", keysOf(w), two(func(r *trust.Root) { r.PolicyThreshold = 2 }),
			"the root document wants the signatures of 2 policy keys; this version signs with one"},
		{"two admission signatures", keysOf(w), two(func(r *trust.Root) { r.AdmissionThreshold = 2 }),
			"the root document wants the signatures of 2 admission keys; this version signs with one"},
		{"two keys, of which one signs", keysOf(w), two(func(*trust.Root) {}), ""},
	} {
		p, err := Open(t.TempDir(), c.keys, c.root)
		if c.want == "" && err != nil || c.want != "" && (p != nil || err == nil || err.Error() != c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
