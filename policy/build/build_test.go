package build_test

import (
	"maps"
	"os"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

func TestMain(m *testing.M) {
	build.Child()
	os.Exit(m.Run())
}

const example = "../../examples/accounting"

func TestBuildsTheExample(t *testing.T) {
	tree, err := source.Dir(example)
	if err != nil {
		t.Fatal(err)
	}
	r, err := build.Build(t.Context(), build.Request{Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Tests.OK() {
		t.Errorf("tests: got %+v, want all passed", r.Tests)
	}
	if len(r.Denied()) != 0 || len(r.Approvals) != 0 {
		t.Errorf("guards: got %+v and %+v, want nothing", r.Guards, r.Approvals)
	}
	again, err := build.Build(t.Context(), build.Request{Tree: tree, Base: r})
	if err != nil {
		t.Fatal(err)
	}
	if again.Hashed.Root() != r.Hashed.Root() || !again.Difference.Empty() {
		t.Errorf("built again: got root %s and difference %+v, want %s and none", again.Hashed.Root(), again.Difference, r.Hashed.Root())
	}
}

func TestMembershipUntilIsTheDifference(t *testing.T) {
	files := fstest.MapFS{}
	for _, name := range []string{"network.cue", "groups.cue", "rules.cue", "tests.cue"} {
		b, err := os.ReadFile(example + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: b}
	}
	base, err := build.Build(t.Context(), build.Request{Tree: source.Tree{FS: files}})
	if err != nil {
		t.Fatal(err)
	}
	changed := maps.Clone(files)
	groups := string(files["groups.cue"].Data)
	changed["groups.cue"] = &fstest.MapFile{Data: []byte(
		groups[:slices.Index([]byte(groups), '[')] + `["alice@acme.example", {member: "bob@acme.example", until: "2099-11-30T23:59:00Z"}]` +
			groups[slices.Index([]byte(groups), ']')+1:])}
	head, err := build.Build(t.Context(), build.Request{Tree: source.Tree{FS: changed}, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if !head.Tests.OK() {
		t.Errorf("tests: got %+v, want all passed", head.Tests)
	}
	want := []reach.Change{{
		From: []string{"bob@acme.example"}, To: []string{"tag:accounting"}, Ports: []string{"tcp/80", "icmp"},
		Until: time.Date(2099, 11, 30, 23, 59, 0, 0, time.UTC), Rules: []string{"accounting-web"},
		People: []string{"bob@acme.example"}, Nodes: []string{},
		Causes: []reach.Cause{{Place: "groups.cue:4", What: "bob@acme.example is in group:accounting until 2099-11-30 23:59 UTC"}},
		By:     "policy", PeopleCount: 1,
	}}
	ignore := cmpopts.IgnoreFields(reach.Change{}, "Sample")
	if d := cmp.Diff(want, head.Difference.Gained, ignore); d != "" {
		t.Errorf("gained (-want +got):\n%s", d)
	}
	if len(head.Difference.Lost) != 0 {
		t.Errorf("lost: got %+v, want nothing", head.Difference.Lost)
	}
}
