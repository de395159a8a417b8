package leaf

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/key"
)

func network(i byte) key.NetworkID { return key.NetworkID{i, 1} }

// exampleChanges is a list with a record added, changed and removed.
func exampleChanges(t testing.TB) ChangeList {
	t.Helper()
	leaves := examples(t)
	old, err := TreeOf(leaves[1:])
	if err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(leaves[:len(leaves)-1])
	changed[2].Data = []byte("{}\n")
	now, err := TreeOf(changed)
	if err != nil {
		t.Fatal(err)
	}
	c := ChangeList{network(7), key.HashOf([]byte("base")), Diff(old, now)}
	if len(c.Changes) != 3 {
		t.Fatalf("%d changes, want 3", len(c.Changes))
	}
	return c
}

func TestChangesVector(t *testing.T) {
	golden(t, "testdata/changes.txt", string(exampleChanges(t).Encode()))
}

// The changes of a list, applied to the old records, give the new ones; and the
// list holds nothing else.
func TestDiffApplied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawLeaves(t), drawLeaves(t)
		// Half of the leaves stay, so that lists are not all additions.
		for _, l := range a {
			if _, ok := truth(b, l.Name); !ok && rapid.Bool().Draw(t, "stays") {
				b = append(b, l)
			}
		}
		old, err := TreeOf(a)
		if err != nil {
			t.Fatal(err)
		}
		now, err := TreeOf(b)
		if err != nil {
			t.Fatal(err)
		}
		c := ChangeList{Network: network(1), Changes: Diff(old, now)}
		if rapid.Bool().Draw(t, "has a base") {
			c.Base = key.HashOf([]byte("base"))
		}
		parsed, err := ParseChangeList(c.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, parsed); d != "" {
			t.Fatalf("parsed is not what was encoded (-want +got):\n%s", d)
		}
		held := map[key.Hash]key.Hash{}
		for _, r := range old.Records() {
			held[r.Name] = r.Leaf
		}
		for _, ch := range parsed.Changes {
			if held[ch.Name] != ch.Old {
				t.Errorf("change of %s from %s, held is %s", ch.Name.Short(), ch.Old.Short(), held[ch.Name].Short())
			}
			if ch.New.IsZero() {
				delete(held, ch.Name)
			} else {
				held[ch.Name] = ch.New
			}
		}
		want := map[key.Hash]key.Hash{}
		for _, r := range now.Records() {
			want[r.Name] = r.Leaf
		}
		if !maps.Equal(held, want) {
			t.Errorf("applied: %d records, want %d", len(held), len(want))
		}
		if len(Diff(now, now)) != 0 {
			t.Error("a tree differs from itself")
		}
		if d := cmp.Diff(Diff(nil, now), Diff(must(NewTree(nil)), now)); d != "" {
			t.Errorf("nil is not the empty tree: %s", d)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Every other byte at every place of a list is refused, or gives a list whose
// text is exactly those bytes.
func TestChangeListMutations(t *testing.T) {
	good := exampleChanges(t).Encode()
	check := func(what string, b []byte) (accepted bool) {
		t.Helper()
		c, err := ParseChangeList(b)
		if err != nil {
			return false
		}
		if got := c.Encode(); !bytes.Equal(got, b) {
			t.Errorf("%s: accepted, and encodes again as\n%s", what, got)
		}
		return true
	}
	if !check("unchanged", good) {
		t.Fatal("the good list is refused")
	}
	bad := bytes.Clone(good)
	for i := range good {
		for v := range 256 {
			bad[i] = byte(v)
			check(fmt.Sprintf("byte %d as %#x", i, v), bad)
		}
		bad[i] = good[i]
		check(fmt.Sprintf("byte %d dropped", i), slices.Delete(bytes.Clone(good), i, i+1))
		check(fmt.Sprintf("byte %d twice", i), slices.Insert(bytes.Clone(good), i, good[i]))
		if check(fmt.Sprintf("only %d bytes", i), good[:i]) && !bytes.HasSuffix(good[:i], []byte("\n")) {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
	lines := slices.Collect(strings.Lines(string(good)))
	for i := range lines {
		check("line dropped", []byte(strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "")))
		if check("line twice", []byte(strings.Join(slices.Insert(slices.Clone(lines), i, lines[i]), ""))) {
			t.Errorf("line %d twice: accepted", i+1)
		}
		if i > 0 {
			swapped := slices.Clone(lines)
			swapped[i-1], swapped[i] = lines[i], lines[i-1]
			if check("lines swapped", []byte(strings.Join(swapped, ""))) {
				t.Errorf("lines %d and %d swapped: accepted", i, i+1)
			}
		}
	}
}

func TestParseChangeListRefuses(t *testing.T) {
	c := exampleChanges(t)
	text := string(c.Encode())
	lines := strings.Split(text, "\n")
	hash := strings.Repeat("ab", 32)
	head := strings.Join(lines[:3], "\n") + "\n"
	for name, c := range map[string]struct{ in, want string }{
		"empty":                 {"", "line 0: no newline at the end"},
		"one newline":           {"\n", "line 1: not a change list"},
		"no newline at the end": {strings.TrimSuffix(text, "\n"), "line 0: no newline at the end"},
		"another type":          {strings.Replace(text, "v1", "v2", 1), "line 1: not a change list"},
		"type alone":            {"writ/changes/v1\n", "line 1: ends before the base"},
		"no base":               {strings.Join(lines[:2], "\n") + "\n", "line 2: ends before the base"},
		"network without key":   {strings.Replace(text, "network ", "", 1), "line 2: want the network"},
		"network none":          {strings.Replace(text, lines[1], "network none", 1), `line 2: network id: does not begin with "net:"`},
		"base without key":      {strings.Replace(text, "base ", "", 1), "line 3: base: want a hash or none"},
		"none without key":      {lines[0] + "\n" + lines[1] + "\nnone\n", "line 3: base: want a hash or none"},
		"base is zero":          {lines[0] + "\n" + lines[1] + "\nbase sha256:" + strings.Repeat("0", 64) + "\n", "line 3: base: want a hash or none"},
		"base and network swap": {lines[0] + "\n" + lines[2] + "\n" + lines[1] + "\n", "line 2: want the network"},
		"blank line":            {head + "\n", "line 4: want: change NAME OLD NEW"},
		"blank line at the end": {text + "\n", "line 7: want: change NAME OLD NEW"},
		"CRLF":                  {strings.ReplaceAll(text, "\n", "\r\n"), "line 1: not a change list"},
		"another key":           {head + "changes " + hash + " - " + hash + "\n", "line 4: want: change NAME OLD NEW"},
		"three fields":          {head + "change " + hash + " -\n", "line 4: want: change NAME OLD NEW"},
		"five fields":           {head + "change " + hash + " - " + hash + " -\n", "line 4: want: change NAME OLD NEW"},
		"two spaces":            {head + "change  " + hash + " - " + hash + "\n", "line 4: want: change NAME OLD NEW"},
		"no name":               {head + "change - - " + hash + "\n", "line 4: changes nothing"},
		"none to none":          {head + "change " + hash + " - -\n", "line 4: changes nothing"},
		"old is new":            {head + "change " + hash + " " + hash + " " + hash + "\n", "line 4: changes nothing"},
		"upper case":            {head + "change " + strings.ToUpper(hash) + " - " + hash + "\n", "line 4: want 64 lower-case hexadecimal digits"},
		"zero hash":             {head + "change " + hash + " - " + strings.Repeat("0", 64) + "\n", "line 4: want 64 lower-case hexadecimal digits"},
		"short hash":            {head + "change " + hash + " - " + hash[1:] + "\n", "line 4: want 64 lower-case hexadecimal digits"},
		"twice":                 {head + strings.Repeat("change "+hash+" - "+hash+"\n", 2), "line 5: out of order"},
		"descending":            {head + "change " + hash + " - " + hash + "\nchange 00" + hash[2:] + " - " + hash + "\n", "line 5: out of order"},
		"too large":             {head + strings.Repeat(" ", MaxChanges), fmt.Sprintf("line 0: %d bytes, at most %d", len(head)+MaxChanges, MaxChanges)},
	} {
		got, err := ParseChangeList([]byte(c.in))
		if want := "change list " + c.want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, want)
		}
	}
	if c, err := ParseChangeList([]byte(head)); err != nil || len(c.Changes) != 0 {
		t.Errorf("no changes: got %v, %v", c, err)
	}
}

func FuzzParseChangeList(f *testing.F) {
	c := exampleChanges(f)
	f.Add(c.Encode())
	c.Base = key.Hash{}
	f.Add(c.Encode())
	f.Add(ChangeList{}.Encode())
	f.Add([]byte("writ/changes/v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChangeList(b)
		if err != nil {
			return
		}
		if got := c.Encode(); !bytes.Equal(got, b) {
			t.Errorf("%q encodes again as %q", b, got)
		}
	})
}
