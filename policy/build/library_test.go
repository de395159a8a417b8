package build_test

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/policy/build"
)

const library = "../../examples/guards"

// Each guard of the library, alone, objects to a change that it is there for.
func TestLibraryOfGuards(t *testing.T) {
	rule := func(from, to, more string) map[string]string {
		return map[string]string{"new.cue": `package network

rules: new: {from: ["` + from + `"], to: ["` + to + `"], allow: ["tcp/443"], ` + more + `}
`}
	}
	const owned = `why: "OPS-9", owner: "group:it"`
	changes := map[string]struct {
		change map[string]string // "" removes
		want   []string
	}{
		"no-star": {rule("*", "tag:control", owned), []string{
			`contractors: rule "new" gives * access without end, contractors among them: write until, or except group:contractors`,
			`no-star: rule "new": from * is everybody, and to tag:control reaches tag:control`,
			"widening: everybody in * gains access, however many; more than 2 need approval",
		}},
		"widening":     {rule("group:engineering", "tag:payroll", owned), []string{"widening: 3 people gain access; more than 2 need approval"}},
		"owner-ticket": {rule("alice@acme.example", "tag:control", `why: "please"`), []string{`owner-ticket: rule "new" has no owner: write owner`, `owner-ticket: rule "new" has no ticket: begin why with one, as in "OPS-7: …"`}},
		"contractors":  {rule("grace@partner.example", "tag:control", owned), []string{`contractors: rule "new" gives grace@partner.example access without end: write until`}},
		"lock-out": {map[string]string{"network.cue": "", "rules.cue": ""}, []string{
			"lock-out: dave@acme.example administers the network and loses tcp/22 to tag:control",
			"lock-out: erin@acme.example administers the network and loses tcp/22 to tag:control",
			"lock-out: no coordinator stays as nodes know it; change one after another",
			"lock-out: no rule lets all administrators reach tag:control on tcp/22 at any time",
		}},
		"team-approval": {rule("alice@acme.example", "tag:payments", owned), []string{`team-approval: rule "new" gives alice@acme.example access to tag:payments of team payments`}},
		"guard-changes": {map[string]string{"guard/no-star.rego": "", "guard/no-star_test.rego": ""}, []string{"guard-changes: guard/no-star.rego is removed"}},
	}
	files := filesOf(t, library)
	// What the lock-out takes away.
	change := changes["lock-out"].change
	change["network.cue"] = strings.Replace(strings.Replace(files["network.cue"], `"eu.control.acme.example:443"`, `"eu2.control.acme.example:443"`, 1), `"us.control.acme.example:443"`, `"us2.control.acme.example:443"`, 1)
	from, to := strings.Index(files["rules.cue"], "\t\"it-control\""), strings.Index(files["rules.cue"], "\t\"accounting-payroll\"")
	change["rules.cue"] = files["rules.cue"][:from] + files["rules.cue"][to:]
	change["tests.cue"] = "package network\n\ntests: nobody: deny: [{from: \"tag:payroll\", to: \"*\"}]\n"

	base := mustBuild(t, build.Request{Tree: tree(files)})
	if !base.Tests.OK() || len(base.Denied()) > 0 {
		t.Fatalf("the library itself: got tests %+v, denials %+v", base.Tests, base.Denied())
	}
	if failed := base.FailedGuardTests(); len(failed) > 0 || len(base.GuardTests) < len(changes) {
		t.Errorf("of %d tests of guards these fail: %+v", len(base.GuardTests), failed)
	}
	for _, f := range base.GuardCoverage.Files {
		// A constant that every test replaces is not looked at.
		if len(f.Uncovered) > 1 {
			t.Errorf("tests of %s do not look at lines %v", f.File, f.Uncovered)
		}
	}
	if same := mustBuild(t, build.Request{Tree: tree(files), Base: base}); len(said(same)) > 0 {
		t.Errorf("no change: got %q, want silence", said(same))
	}
	names := []string{}
	for file := range files {
		if stem, ok := strings.CutSuffix(path.Base(file), ".rego"); ok && !strings.HasSuffix(stem, "_test") {
			names = append(names, stem)
			if files["guard/"+stem+"_test.rego"] == "" {
				t.Errorf("guard %s has no tests", stem)
			}
			if !strings.HasPrefix(files[file], "# METADATA\n# title: ") {
				t.Errorf("guard %s does not say what it is", stem)
			}
			if !strings.Contains(files["README.md"], "| ["+stem+"](guard/"+stem+".rego) |") {
				t.Errorf("guard %s is not in the table of README.md", stem)
			}
		}
	}
	slices.Sort(names)
	if want := slices.Sorted(maps.Keys(changes)); !slices.Equal(names, want) {
		t.Errorf("got guards %v, want one for each of the changes %v", names, want)
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			changed := maps.Clone(files)
			for file, text := range c.change {
				if changed[file] = text; text == "" {
					delete(changed, file)
				}
			}
			got := said(mustBuild(t, build.Request{Tree: tree(changed), Base: base}))
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// However a rule names whom it is for and where it goes, a guard of the library that
// is about it speaks.
func TestLibraryIsNotPassedBy(t *testing.T) {
	files := filesOf(t, library)
	base := mustBuild(t, build.Request{Tree: tree(files)})
	const owned = `allow: ["tcp/9999"], why: "OPS-9", owner: "group:it"}`
	for _, c := range []struct{ name, guard, text string }{
		{"everywhere", "team-approval", `rules: new: {from: ["tag:web"], to: ["*"], ` + owned},
		{"all servers", "team-approval", `rules: new: {from: ["tag:web"], to: ["autogroup:tagged"], ` + owned},
		{"all but some", "team-approval", `rules: new: {from: ["tag:web"], to: [{any: ["*"], except: ["tag:web"]}], ` + owned},
		{"anyone of a provider", "widening", `rules: new: {from: ["group:all"], to: ["tag:web"], ` + owned + `
groups: all: [{claim: {name: "groups", value: "all"}}]
identity: idp: {issuer: "https://idp.acme.example", clientID: "writ", members: ["*@acme.example"]}`},
		{"every member", "widening", `rules: new: {from: ["autogroup:member"], to: ["tag:web"], ` + owned},
		{"contractors among members", "contractors", `rules: new: {from: ["autogroup:member"], to: ["tag:control"], ` + owned},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := maps.Clone(files)
			changed["new.cue"] = "package network\n\n" + c.text + "\n"
			got := said(mustBuild(t, build.Request{Tree: tree(changed), Base: base}))
			if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, c.guard+": ") }) {
				t.Errorf("got %q, want guard %s to speak", got, c.guard)
			}
		})
	}
}

// said is what guards say of a result, sorted.
func said(r *build.Result) []string {
	out := []string{}
	for _, f := range r.Guards {
		out = append(out, f.Guard+": "+f.Message)
	}
	for _, a := range r.Approvals {
		out = append(out, a.Guard+": "+a.Reason)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// filesOf are the files of a folder, by path.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(tree, name)
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The language's examples of Rego pass their tests, and would not without it.
func TestExamplesOfRego(t *testing.T) {
	computed := filesOf(t, "../../examples/language/generate")
	r := mustBuild(t, build.Request{Tree: tree(computed)})
	if !r.Tests.OK() || len(r.GuardTests) == 0 || len(r.FailedGuardTests()) > 0 {
		t.Errorf("generate: got %+v and %+v, want all passed", r.Tests, r.GuardTests)
	}
	for _, rule := range r.Policy.Rules {
		if rule.Name != "administration" && (len(rule.Origin) != 2 || rule.Place.File != "generate/own.rego") {
			t.Errorf("rule %s: got place %v and origin %v, want those of the generator, group and tag", rule.Name, rule.Place, rule.Origin)
		}
	}
	delete(computed, "generate/own.rego")
	delete(computed, "generate/own_test.rego")
	if without := mustBuild(t, build.Request{Tree: tree(computed)}); without.Tests.Failed != 1 {
		t.Errorf("without generate/own.rego: got %+v, want the test failed", without.Tests)
	}

	guarded := filesOf(t, "../../examples/language/guards")
	base := mustBuild(t, build.Request{Tree: tree(guarded)})
	if !base.Tests.OK() || len(base.GuardTests) == 0 || len(base.FailedGuardTests()) > 0 || len(said(base)) > 0 {
		t.Errorf("guards: got %+v, %+v and %q, want all passed and silence", base.Tests, base.GuardTests, said(base))
	}
	delete(guarded, "tests.cue")
	guarded["tests.cue"] = "package network\n\ntests: x: deny: [{from: \"tag:build\", to: \"*\"}]\n"
	guarded["new.cue"] = `package network

rules: new: {
	from: ["alice@acme.example"]
	to: ["tag:payroll"]
	allow: ["tcp/443"]
	capabilities: "acme.example/cap/deploy": {stages: ["production"]}
}
`
	want := []string{
		"language: alice@acme.example gains tag:payroll on tcp/443",
		`language: rule "new" does not ask what devices are like`,
		`language: rule "new" lets people deploy to production: machines do`,
	}
	if got := said(mustBuild(t, build.Request{Tree: tree(guarded), Base: base})); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
