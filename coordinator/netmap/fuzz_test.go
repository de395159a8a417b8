package netmap_test

import (
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/statefile"
)

// FuzzAccept puts arbitrary bytes in the place of every document. Whatever the
// bytes, the verifier does not panic, does not move, and still takes up an honest
// update afterwards. The keys are new in each process, so that no input can be
// signed.
func FuzzAccept(f *testing.F) {
	w := netmaptest.New(f, start)
	ledger, alice := w.Admit("ledger-1", "tag:accounting"), w.Admit("alice", "alice@acme.example")
	r1 := w.Publish(accounting("alice@acme.example"))
	all := w.Everything(ledger, r1, alice)
	s := netmap.New(w.Network, ledger.ID).Accept(all, w.Now).State
	w.Advance(time.Minute)
	r2 := w.Publish(accounting())
	delta := w.Delta(ledger, r1, r2, alice)
	held := s.Netmap(w.Now).Digest

	l := all.Leaves[0]
	f.Add(w.Roots[0], w.EndedDoc, r1.Doc.Manifest, r1.Doc.Changes, l.Name, l.Data, l.Proof, false, ledger.Papers.Admission, alice.Papers.Admission, alice.Papers.Record)
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, "", []byte{}, []byte{}, true, []byte{}, []byte{}, []byte{})
	f.Add([]byte("writ/root/v1\n\n— root-1 AAAA\n"), []byte("writ/ended/v1\n"), []byte("writ/manifest/v1\n\n— a b\n"), []byte("writ/changes/v1\nnetwork x\nbase none\n"),
		"principal/alice@acme.example", []byte("{}"), []byte{2, 0, 0}, false, []byte("\n\n—"), []byte("x\n\n— y AAAAAAAA\n"), []byte("\n"))
	f.Fuzz(func(t *testing.T, root, ended, manifest, changes []byte, name string, data, proof []byte, absent bool, own, admission, record []byte) {
		u := netmap.Update{
			Roots: [][]byte{root}, Ended: ended, Admission: own,
			Revisions: []netmap.Revision{{Manifest: manifest, Changes: changes}, {Manifest: r1.Doc.Manifest, Changes: changes}},
			Leaves:    []netmap.Proved{{Name: name, Data: data, Absent: absent, Proof: proof}, {Name: name, Data: data, Absent: absent}},
			Peers:     []netmap.Papers{{Admission: admission, Record: record}, {Admission: alice.Papers.Admission, Record: record}},
		}
		netmap.New(w.Network, ledger.ID).Accept(u, w.Now)
		fresh := netmap.New(w.Network, ledger.ID).Accept(netmap.Update{Roots: w.Roots}, w.Now).State
		fresh.Accept(u, w.Now)
		o := s.Accept(u, w.Now)
		n := o.State.Netmap(w.Now)
		if o.Adopted || n.Position != r1.Manifest.Position || n.Digest != held || !may(n, "alice", 80, w.Now) || may(n, "alice", 81, w.Now) {
			t.Errorf("got %v, %+v; want what was held", n.Position, n)
		}
		u.Revisions = append(u.Revisions, delta.Revisions...)
		u.Leaves = append(u.Leaves, delta.Leaves...)
		if o := o.State.Accept(u, w.Now); o.State.Netmap(w.Now).Position != r2.Manifest.Position {
			t.Errorf("an honest revision among the bytes is not adopted: %v", o.Refused)
		}
		if _, err := s.AdmitPapers(alice.Key.Public(), admission, w.Now); err == nil && string(admission) != string(alice.Papers.Admission) {
			t.Error("papers that nobody signed are admitted")
		}
	})
}

// FuzzLoad reads a real state with a part of it replaced. As content of a damaged
// file, it is noticed. As content that somebody put there, with a checksum that
// is right, it never panics, and the documents in it still verify or are refused:
// nobody is somebody who was not admitted.
func FuzzLoad(f *testing.F) {
	w := netmaptest.New(f, start)
	ledger, alice := w.Admit("ledger-1", "tag:accounting"), w.Admit("alice", "alice@acme.example")
	r1 := w.Publish(accounting("alice@acme.example"))
	s := netmap.New(w.Network, ledger.ID).Accept(w.Everything(ledger, r1, alice), w.Now).State
	content, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	file := statefile.Encode("netmap", content)
	for _, seed := range []struct {
		at, cut int
		put     string
	}{
		{0, 1 << 20, ""}, {0, 1 << 20, "{}"}, {0, 1 << 20, "null"}, {0, 1 << 20, `{"version":1}`}, {11, 1, "2"}, {len(content) / 2, 1, "A"},
		{len(content) - 1, 1, ""}, {len(content) - 1, 0, `,"extra":1`}, {0, 0, ""}, {200, 40, "null"}, {0, 1 << 20, "[" + "[[[[[[["},
	} {
		f.Add(seed.at, seed.cut, []byte(seed.put))
	}
	f.Fuzz(func(t *testing.T, at, cut int, put []byte) {
		splice := func(b []byte) []byte {
			at := min(max(at, 0), len(b))
			end := at + min(max(cut, 0), len(b)-at)
			return append(append(append([]byte(nil), b[:at]...), put...), b[end:]...)
		}
		damaged := splice(file)
		if got, err := statefile.Decode("netmap", damaged); err == nil && string(damaged) != string(file) {
			t.Errorf("a damaged file of %d bytes was read as %d", len(damaged), len(got))
		}
		loaded, err := netmap.Load(w.Network, ledger.ID, splice(content))
		if err != nil {
			return
		}
		n := loaded.Netmap(w.Now)
		for _, p := range n.Peers {
			if p.Subject.ID != alice.ID || p.WG != alice.WG.Public() {
				t.Errorf("peer %+v was never admitted", p)
			}
		}
		if n.Self != nil && n.Self.ID != ledger.ID || n.Position.Seq != 0 && n.Manifest != r1.Manifest.Hash() {
			t.Errorf("got self %+v at %v, want what was signed", n.Self, n.Position)
		}
		if _, err := netmap.Load(w.Network, key.NodeID{1}, splice(content)); err == nil && n.Self != nil {
			t.Error("another node reads the state as its own")
		}
	})
}
