package build_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/sandbox"
)

// pings lets everybody in a group ping the servers of the same name.
const pings = `package generate.pings

rules[sprintf("ping-%s", [tag.name])] := {
	"from": [sprintf("group:%s", [tag.name])],
	"to": [sprintf("tag:%s", [tag.name])],
	"allow": ["udp/7"],
	"why": "OPS-1",
	"origin": tag.place,
} if {
	some tag in input.network.tags
}
`

// A computed rule compiles to what the same rule compiles to when it is written.
func TestComputedRulesAreAsWritten(t *testing.T) {
	written := exampleFiles(t)
	written["ping.cue"] = `package network

rules: "ping-accounting": {from: ["group:accounting"], to: ["tag:accounting"], allow: ["udp/7"], why: "OPS-1"}
`
	computed := exampleFiles(t)
	computed["generate/pings.rego"] = pings
	want, got := mustBuild(t, build.Request{Tree: tree(written)}), mustBuild(t, build.Request{Tree: tree(computed)})
	if want.Hashed.Root() != got.Hashed.Root() {
		t.Errorf("got leaves %v, want %v", got.Leaves, want.Leaves)
	}
	plain := mustBuild(t, build.Request{Tree: tree(exampleFiles(t))})
	d := build.Compare(plain, got, nil)
	if len(d.Gained) != 1 || !slices.Equal(d.Gained[0].Rules, []string{"ping-accounting"}) || len(d.Lost) != 0 {
		t.Fatalf("got difference %+v, want what ping-accounting gives", d)
	}
	causes := []reach.Cause{
		{Place: "generate/pings.rego:3", What: "rule ping-accounting"},
		{Place: "groups.cue:12", What: "rule ping-accounting is computed from it"},
	}
	if !slices.Equal(d.Gained[0].Causes, causes) {
		t.Errorf("got causes %+v, want %+v", d.Gained[0].Causes, causes)
	}
	if lost := build.Compare(got, plain, nil).Lost; len(lost) != 1 || len(lost[0].Causes) != 2 || !lost[0].Causes[1].Base || lost[0].Causes[1].Place != "groups.cue:12" {
		t.Errorf("taken away: got %+v, want the same places, of the base", lost)
	}
	o := got.Origins(nil).Rules["ping-accounting"]
	if o.Place != "generate/pings.rego:3" || !slices.Equal(o.From, []string{"groups.cue:12"}) {
		t.Errorf("got origin %+v, want generate/pings.rego:3 from groups.cue:12", o)
	}
}

// A generator is at fault with the place of its rule and that of what the rule is
// made of; and it ends.
func TestGeneratorsAtFault(t *testing.T) {
	for _, c := range []struct{ name, source, want string }{
		{"unknown", strings.Replace(pings, `"tag:%s"`, `"tag:%sx"`, 1), `generate/pings.rego:3:1: rule "ping-accounting": unknown tag "accountingx"; did you mean "accounting"?`},
		{"syntax", "package generate.pings\n\nrules[", "generate/pings.rego:"},
		{"clash", strings.Replace(pings, `sprintf("ping-%s", [tag.name])`, `"accounting-web"`, 1), `generate/pings.rego:3:1: rule "accounting-web" is computed here, and there already`},
		{"test", pings + "\ntest_x if true", `generate/pings.rego:13:1: nothing refers to rule test_x`},
		{"loop", "package generate.pings\n\nrules[\"x\"] := {} if {\n\tsome a in numbers.range(1, 3000)\n\tsome b in numbers.range(1, 3000)\n\tsome c in numbers.range(1, 3000)\n\ta + b + c < 0\n}", "generate/pings.rego: generator pings does not end: "},
		{"memory", "package generate.pings\n\nrules[\"x\"] := {} if count([[a, b] | some a in numbers.range(1, 100000); some b in numbers.range(1, 100000)]) < 1", ""},
		{"recursion", "package generate.pings\n\nf(x) := f(x + 1)\n\nrules[\"x\"] := {} if f(1)", "generate/pings.rego:3:1: rule data.generate.pings.f is recursive"},
		{"regex", "package generate.pings\n\nrules[\"x\"] := {} if regex.match(\"((a{1,100}){1,100}){1,100}\", \"a\")", "generate/pings.rego:3:"},
		{"rules", "package generate.pings\n\nrules[sprintf(\"x%d\", [n])] := {} if some n in numbers.range(1, 10000000)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := exampleFiles(t)
			files["generate/pings.rego"] = c.source
			began := time.Now()
			limits := sandbox.Limits{Memory: 256 << 20, CPU: 2 * time.Second, Wall: 8 * time.Second}
			r, err := build.Build(t.Context(), build.Request{Tree: tree(files), Limits: limits})
			text, atFault := "", false
			if err != nil {
				text, atFault = build.AtFault(err)
			}
			if !atFault || !strings.HasPrefix(text, c.want) && !isLimit(err) {
				t.Errorf("got %+v, %v; want %s", r, err, c.want)
			}
			t.Logf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
			if took := time.Since(began); took > limits.Wall+10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	files := exampleFiles(t)
	files["generate/pings.rego"] = strings.Replace(pings, `"tag:%s"`, `"tag:%sx"`, 1)
	_, err := build.Check(t.Context(), build.Request{Tree: tree(files)})
	var problems model.Problems
	if !errors.As(err, &problems) || len(problems) != 1 || len(problems[0].Also) != 1 || problems[0].Also[0].File != "groups.cue" {
		t.Errorf("got %+v, want one problem, and the place of the tag", problems)
	}
}

func isLimit(err error) bool {
	return errors.Is(err, sandbox.ErrMemory) || errors.Is(err, sandbox.ErrCPU) || errors.Is(err, sandbox.ErrWall)
}

// What a generator yields nothing of, a person should look at.
func TestGeneratorThatYieldsNothing(t *testing.T) {
	files := exampleFiles(t)
	files["generate/pings.rego"] = strings.Replace(pings, "some tag in input.network.tags", `some tag in input.network.tags; tag.name == "x"`, 1)
	r := mustBuild(t, build.Request{Tree: tree(files)})
	if want := "generate/pings.rego: generator pings yields no rule"; !slices.ContainsFunc(r.Policy.Warnings, func(p model.Problem) bool { return p.String() == want }) {
		t.Errorf("got warnings %v, want %s", r.Policy.Warnings, want)
	}
}

// Tests of guards and generators are run, and say what failed.
func TestRegoTestsAreRun(t *testing.T) {
	files := exampleFiles(t)
	files["generate/pings.rego"] = pings
	if r := mustBuild(t, build.Request{Tree: tree(files)}); r.GuardTests != nil || r.GuardCoverage != nil {
		t.Errorf("without tests: got %+v, %+v", r.GuardTests, r.GuardCoverage)
	}
	files["guard/ticket_test.rego"] = `package guard.ticket_test

test_silent if {
	count(data.guard.ticket.warn) == 0 with input as {"network": {"rules": [{"name": "a", "why": "OPS-1"}]}}
}

test_fails if count(data.guard.ticket.warn) == 0 with input as {"network": {"rules": [{"name": "a", "place": {"file": "a.cue"}}]}}
`
	files["generate/pings_test.rego"] = `package generate.pings_test

test_none if count(data.generate.pings.rules) == 0 with input as {"network": {"tags": []}}
`
	r := mustBuild(t, build.Request{Tree: tree(files)})
	var got []string
	for _, x := range r.GuardTests {
		got = append(got, x.Name)
	}
	if want := []string{"test_silent", "test_fails", "test_none"}; !slices.Equal(got, want) {
		t.Errorf("got tests %v, want %v", got, want)
	}
	if failed := r.FailedGuardTests(); len(failed) != 1 || failed[0].Name != "test_fails" || failed[0].Place.String() != "guard/ticket_test.rego:7:1" {
		t.Errorf("got failed tests %+v, want test_fails", failed)
	}
	lines := map[string][2]int{}
	for _, f := range r.GuardCoverage.Files {
		lines[f.File] = [2]int{f.Covered, f.Lines}
	}
	want := map[string][2]int{"guard/star.rego": {0, 5}, "guard/ticket.rego": {3, 4}, "generate/pings.rego": {0, 1}}
	if !maps.Equal(lines, want) {
		t.Errorf("got coverage %v, want %v", lines, want)
	}
}

// A file of tests without a test is a problem of the policy.
func TestNoRegoTests(t *testing.T) {
	files := exampleFiles(t)
	files["guard/ticket_test.rego"] = "package guard.ticket_test\n"
	_, err := build.Check(t.Context(), build.Request{Tree: tree(files)})
	if want := "guard/ticket_test.rego:1:1: no test in this file: a test is a rule test_NAME"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
