package netmap_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/netmap"
)

// TestLoadRefuses changes one thing in a state that was written: a node does not
// start with a part of what it held.
func TestLoadRefuses(t *testing.T) {
	x := setStage(t)
	content, err := x.s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	forged := setStage(t) // another network's documents, and other keys'
	b64 := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	type object = map[string]any
	for _, test := range []struct {
		name   string
		change func(d object)
		want   string
	}{
		{"another version", func(d object) { d["version"] = 2 }, "version 2, this program knows 1"},
		{"another network", func(d object) { d["network"] = forged.Network.String() }, "of network"},
		{"an unknown field", func(d object) { d["more"] = 1 }, "unknown field"},
		{"a number for a list", func(d object) { d["roots"] = 1 }, "read state"},
		{"another root document", func(d object) { d["roots"] = []string{b64(forged.Roots[0])} }, "of network"},
		{"no root document", func(d object) { delete(d, "roots") }, "documents without a root document"},
		{"another ended list", func(d object) { d["ended"] = b64(forged.EndedDoc) }, "ended list"},
		{"no ended list", func(d object) { delete(d, "ended") }, "ended list number 2 is not held"},
		{"an older ended list", func(d object) { d["ended"] = b64(x.ended1) }, "ended list number 2 is not held"},
		{"another ended list before", func(d object) { d["endedBefore"] = b64(forged.EndedDoc) }, "ended list"},
		{"another manifest", func(d object) { d["manifest"] = b64(forged.r2.Doc.Manifest) }, "manifest"},
		{"another admission", func(d object) { d["admission"] = b64(forged.ledger.Papers.Admission) }, "own: admission"},
		{"another node's admission", func(d object) { d["admission"] = b64(x.alice.Papers.Admission) }, "own admission is of another node"},
		{"another network's peer", func(d object) {
			d["peers"] = []object{{"Admission": b64(forged.alice.Papers.Admission), "Record": b64(forged.alice.Papers.Record)}}
		}, "admission"},
		{"another peer's record", func(d object) {
			d["peers"] = []object{{"Admission": b64(x.alice.Papers.Admission), "Record": b64(x.bob.Papers.Record)}}
		}, "record"},
		{"a leaf less", func(d object) { d["leaves"] = d["leaves"].([]any)[1:] }, "are not proved"},
		{"an absence less", func(d object) { d["absent"] = nil }, "are not proved"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d object
			if err := json.Unmarshal(content, &d); err != nil {
				t.Fatal(err)
			}
			test.change(d)
			b, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := netmap.Load(x.Network, x.ledger.ID, b); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	if _, err := netmap.Load(x.Network, x.ledger.ID, content[:len(content)/2]); err == nil {
		t.Error("half a state is read")
	}
	if s, err := netmap.Load(x.Network, x.ledger.ID, []byte(`{"version":1,"network":"`+x.Network.String()+`","roots":null,"newest":"0001-01-01T00:00:00Z"}`)); err != nil || s.Root() != nil {
		t.Errorf("a state that holds nothing: got %v, want it", err)
	}
	if _, err := netmap.Load(x.Network, key.NodeID{1}, content); err == nil {
		t.Error("another node reads the state as its own")
	}
}

func TestWhatIsHeldAlreadyChangesNothing(t *testing.T) {
	x := setStage(t)
	if o := x.s.Accept(x.Everything(x.ledger, x.r2, x.alice, x.bob), x.Now); o.Changed || len(o.Refused) > 0 {
		t.Errorf("what is held was sent again: changed %v, refused %v", o.Changed, o.Refused)
	}
}

func TestHaveSaysWhatIsHeld(t *testing.T) {
	x := setStage(t)
	got := x.s.Have()
	if got.Root != 1 || got.Position != x.r2.Manifest.Position || got.Manifest != x.r2.Manifest.Hash() ||
		got.Ended != 2 || got.EndedHash != x.Ended.Hash() || got.Admission != 1 || len(got.Peers) != 2 {
		t.Errorf("got %+v, want root 1, revision %v, list 2, admission 1 and two peers", got, x.r2.Manifest.Position)
	}
}
