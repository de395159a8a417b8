package trust

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/key"
)

func TestManifestRoundTrip(t *testing.T) {
	for _, m := range []*Manifest{exampleManifest(), firstManifest()} {
		got, err := parseManifest(m.Text())
		if err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(m, got, gocmp.AllowUnexported(Manifest{})); d != "" {
			t.Errorf("parsed is not what was written (-want +got):\n%s", d)
		}
		if got.Hash() != key.HashOf([]byte(m.Text())) {
			t.Errorf("hash: got %s", got.Hash())
		}
	}
}

// Each field has its own line: no two documents that differ have one text.
func TestManifestFieldsAreDistinct(t *testing.T) {
	h := key.HashOf([]byte("another"))
	seen := map[string]string{exampleManifest().Text(): "unchanged"}
	for name, edit := range map[string]func(*Manifest){
		"Network": func(m *Manifest) { m.Network = key.NetworkID(h) }, "Root": func(m *Manifest) { m.Root = h },
		"Epoch": func(m *Manifest) { m.Epoch++ }, "Seq": func(m *Manifest) { m.Seq++ }, "Prev": func(m *Manifest) { m.Prev = h },
		"Commit": func(m *Manifest) { m.Commit = Commit(strings.Repeat("a", 40)) }, "Base": func(m *Manifest) { m.Base = Commit(strings.Repeat("a", 40)) },
		"Source": func(m *Manifest) { m.Source = h }, "Compiler": func(m *Manifest) { m.Compiler = "writ/9" }, "Issued": func(m *Manifest) { m.Issued = m.Issued.Add(time.Second) },
		"Leaves": func(m *Manifest) { m.Leaves++ }, "Tree": func(m *Manifest) { m.Tree = h }, "NetworkLeaf": func(m *Manifest) { m.NetworkLeaf = h },
		"RelaysLeaf": func(m *Manifest) { m.RelaysLeaf = h }, "Ended": func(m *Manifest) { m.Ended = h }, "EndedNumber": func(m *Manifest) { m.EndedNumber++ },
		"Inventory": func(m *Manifest) { m.Inventory = h }, "Origins": func(m *Manifest) { m.Origins = h }, "Changes": func(m *Manifest) { m.Changes = h },
	} {
		m := *exampleManifest()
		edit(&m)
		n, err := NewManifest(m)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if other, ok := seen[n.Text()]; ok {
			t.Errorf("%s: the text is that of %s", name, other)
		}
		seen[n.Text()] = name
	}
}

// Times have whole seconds in UTC, whatever the value handed over.
func TestManifestTime(t *testing.T) {
	m := *exampleManifest()
	m.Issued = noon.Add(999 * time.Millisecond).In(time.FixedZone("x", 3600))
	if n, err := NewManifest(m); err != nil || !n.Issued.Equal(noon) || n.Hash() != exampleManifest().Hash() {
		t.Errorf("got %v, %v", n, err)
	}
}

func TestManifestSeqAndIssued(t *testing.T) {
	for seq, ok := range map[int64]bool{noon.Unix() - 1: false, noon.Unix(): true, noon.Unix() + 1: true, 1 << 62: true, 1<<62 + 1: false, 0: false, -1: false} {
		m := *exampleManifest()
		m.Seq = seq
		if _, err := NewManifest(m); (err == nil) != ok {
			t.Errorf("seq %d, issued at %d: got %v", seq, noon.Unix(), err)
		}
	}
}

func TestManifestCompilerIsOneLine(t *testing.T) {
	m := *exampleManifest()
	m.Compiler = "writ/1\nissued 2030-01-01T00:00:00Z"
	if n, err := NewManifest(m); err == nil {
		t.Errorf("accepted:\n%s", n.Text())
	}
}

func TestPositionCompare(t *testing.T) {
	list := []Position{{0, 0}, {0, 1 << 62}, {1, 0}, {1, 1}, {1, 1 << 62}, {2, 0}, {1 << 62, 0}, {1 << 62, 1 << 62}}
	for i, a := range list {
		for j, b := range list {
			if got, want := a.Compare(b), cmp.Compare(i, j); got != want {
				t.Errorf("%s compared with %s: got %d, want %d", a, b, got, want)
			}
		}
	}
	if got := (Position{1, 7}).String(); got != "(1, 7)" {
		t.Errorf("got %s", got)
	}
}

func TestParseCommit(t *testing.T) {
	for _, n := range []int{40, 64} {
		hexa := strings.Repeat("0af9", n/4)
		if c, err := ParseCommit("git:" + hexa); err != nil || c != Commit(hexa) || c.text() != "git:"+hexa || c.Short() != hexa[:7] {
			t.Errorf("%d digits: got %q, %v", n, c, err)
		}
	}
	for _, n := range []int{0, 1, 2, 38, 39, 41, 42, 62, 63, 65, 66, 128} {
		if c, err := ParseCommit("git:" + strings.Repeat("a", n)); err == nil {
			t.Errorf("%d digits: got %q", n, c)
		}
	}
	for _, s := range []string{"", "git", "GIT:" + strings.Repeat("a", 40), strings.Repeat("a", 44), "git:" + strings.Repeat("A", 40), "git:" + strings.Repeat("g", 40), "git: " + strings.Repeat("a", 39)} {
		if c, err := ParseCommit(s); err == nil {
			t.Errorf("%q: got %q", s, c)
		}
	}
	if got := Commit("abc").Short(); got != "abc" {
		t.Errorf("short of a short one: got %q", got)
	}
}

func TestEndedRoundTrip(t *testing.T) {
	e := exampleEnded()
	if got := must(parseEnded(e.Text())); gocmp.Diff(e, got, gocmp.AllowUnexported(Ended{})) != "" {
		t.Errorf("got %v, want %v", got, e)
	}
	if !e.Has(node(1)) || !e.Has(node(0xff)) || e.Has(node(2)) || (*Ended)(nil).Has(node(1)) {
		t.Error("Has is not membership")
	}
	empty := must(NewEnded(Ended{Network: e.Network, Epoch: 1, Issued: noon}))
	if len(empty.Nodes) != 0 || empty.Has(node(1)) {
		t.Errorf("empty list: %v", empty.Nodes)
	}
	for name, reason := range map[string]string{"none": "", "two words": "a b", "a line": "pin\nnode " + node(9).String() + " pin", "a tab": "a\tb"} {
		if e, err := NewEnded(Ended{Network: e.Network, Epoch: 1, Issued: noon, Nodes: map[key.NodeID]string{node(1): reason}}); err == nil {
			t.Errorf("reason %s: accepted:\n%s", name, e.Text())
		}
	}
}

// The longest list that fits in a note is read, and one node more is not.
func TestEndedListOfManyNodes(t *testing.T) {
	e := *exampleEnded()
	for _, n := range []int{10_000, maxEndedNodes, maxEndedNodes + 1} {
		e.Nodes = make(map[key.NodeID]string, n)
		for i := range n {
			e.Nodes[key.NodeID{byte(i >> 16), byte(i >> 8), byte(i)}] = "pin"
		}
		if _, err := NewEnded(e); (err == nil) != (n <= maxEndedNodes) {
			t.Errorf("%d nodes: got %v", n, err)
		}
	}
	e.Nodes = map[key.NodeID]string{}
	for i := range 10_000 {
		e.Nodes[key.NodeID{byte(i >> 8), byte(i)}] = "enrolment"
	}
	if got, err := OpenEnded(signed(must(NewEnded(e)).Text(), a1), firstRoot()); err != nil || len(got.Nodes) != 10_000 {
		t.Errorf("ten thousand nodes: %v", err)
	}
}

func TestEndedFollows(t *testing.T) {
	list := func(epoch, number int64, nodes ...byte) *Ended {
		e := Ended{Network: firstRoot().Network, Epoch: epoch, Number: number, Issued: noon, Nodes: map[key.NodeID]string{}}
		for _, n := range nodes {
			e.Nodes[node(n)] = "pin"
		}
		return must(NewEnded(e))
	}
	held := list(2, 5, 1, 2)
	other := *held
	other.Issued = noon.Add(time.Second)
	reissued := must(NewEnded(other))
	for name, c := range map[string]struct {
		next, held *Ended
		replaces   bool
		want       string
	}{
		"nothing held":            {held, nil, true, ""},
		"the same":                {list(2, 5, 1, 2), held, false, ""},
		"grown":                   {list(2, 6, 1, 2, 3), held, true, ""},
		"not grown":               {list(2, 6, 1, 2), held, true, ""},
		"numbers skipped":         {list(2, 99, 2, 1), held, true, ""},
		"shrunk":                  {list(2, 6, 1), held, false, "ended list: number 6 lacks " + node(2).Short() + ", which had ended"},
		"grown and shrunk":        {list(2, 6, 1, 3, 4), held, false, "ended list: number 6 lacks " + node(2).Short() + ", which had ended"},
		"emptied":                 {list(2, 7), list(2, 6, 1), false, "ended list: number 7 lacks " + node(1).Short() + ", which had ended"},
		"lower number":            {list(2, 4, 1, 2, 3), held, false, "ended list: number 4, 5 is held"},
		"lower number, same list": {list(2, 4, 1, 2), held, false, "ended list: number 4, 5 is held"},
		"same number, more":       {list(2, 5, 1, 2, 3), held, false, fmt.Sprintf("ended list: two of number 5: %s and %s", list(2, 5, 1, 2, 3).Hash().Short(), held.Hash().Short())},
		"same number, other time": {reissued, held, false, fmt.Sprintf("ended list: two of number 5: %s and %s", reissued.Hash().Short(), held.Hash().Short())},
		"next epoch, fresh":       {list(3, 1), held, true, ""},
		"next epoch, same number": {list(3, 5, 9), held, true, ""},
		"epoch before":            {list(1, 6, 1, 2, 3), held, false, "ended list: epoch 1, 2 is held"},
		"epoch before, higher":    {list(1, 1<<62, 1, 2, 3), held, false, "ended list: epoch 1, 2 is held"},
	} {
		got, err := c.next.Follows(c.held)
		if got != c.replaces || c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: got %v, %v, want %v, %s", name, got, err, c.replaces, c.want)
		}
	}
}
