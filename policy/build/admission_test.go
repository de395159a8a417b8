package build_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
)

const admissionGuard = `package guard.admission

checked := count(input.diff.admission)

deny contains {"msg": msg, "place": a.place} if {
	some a in input.diff.admission
	a.effect == "in"
	msg := sprintf("%s %s %s", [a.kind, a.name, a.change])
}

deny contains msg if {
	some a in input.diff.admission
	a.effect == "out"
	msg := sprintf("%s %s puts out %d", [a.kind, a.name, count(a.nodes)])
}

warn contains {"msg": msg, "place": a.place} if {
	some a in input.diff.admission
	a.change == "removed"
	msg := sprintf("%s %s is gone", [a.kind, a.name])
}
`

// TestGuardsSeeWhoIsAdmitted: a guard of the revision before forbids who is let in
// and put out, also in a commit that takes the guard away.
func TestGuardsSeeWhoIsAdmitted(t *testing.T) {
	alice := key.IdentityPrivateFromSeed([32]byte{1}).Public()
	router := key.IdentityPrivateFromSeed([32]byte{2}).Public()
	nodes := func(lines string) string { return "package network\n\nnodes: {\n" + lines + "}\n" }
	files := exampleFiles(t)
	files["nodes.cue"] = nodes("\trouter: {key: \"" + router.String() + "\", tags: [\"tag:accounting\"]}\n")
	before := exampleFiles(t)
	before["nodes.cue"], before["guard/admission.rego"] = files["nodes.cue"], admissionGuard
	base, err := build.Check(t.Context(), build.Request{Tree: tree(before)})
	if err != nil {
		t.Fatal(err)
	}
	inv := &reach.Inventory{Nodes: []reach.Admitted{{Name: "router", ID: router.NodeID(), Tags: []string{"accounting"}, Basis: "pin router"}}}

	files["nodes.cue"] = nodes("\tlaptop: {key: \"" + alice.String() + "\", user: \"alice@acme.example\"}\n")
	head := mustBuild(t, build.Request{Tree: tree(files), Base: base, Inventory: inv})
	type said struct {
		Message string
		Place   model.Place
		Base    bool
	}
	var got []said
	for _, f := range head.Denied() {
		got = append(got, said{f.Message, f.Place, f.Base})
	}
	want := []said{
		{"pin router puts out 1", model.Place{File: "guard/admission.rego", Line: 11, Col: 1}, true}, // its own: the entry is gone
		{"pin laptop added", model.Place{File: "nodes.cue", Line: 4, Col: 2}, true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("denied: (-want +got)\n%s", d)
	}
	var warned []string
	for _, f := range head.Guards {
		if !f.Deny {
			warned = append(warned, f.Message)
		}
	}
	slices.Sort(warned)
	if d := cmp.Diff([]string{"guard guard/admission.rego is gone", "pin router is gone"}, warned); d != "" {
		t.Errorf("warned of what is gone: (-want +got)\n%s", d)
	}
	if head.Difference.Empty() || len(head.Difference.Gained)+len(head.Difference.Lost) != 0 {
		t.Errorf("difference: got %+v, want admission only", head.Difference)
	}

	files["nodes.cue"], files["guard/admission.rego"] = before["nodes.cue"], admissionGuard
	same := mustBuild(t, build.Request{Tree: tree(files), Base: base, Inventory: inv})
	if len(same.Denied()) != 0 || !same.Difference.Empty() {
		t.Errorf("the same again: got %+v and difference %+v, want neither", same.Denied(), same.Difference)
	}
}
