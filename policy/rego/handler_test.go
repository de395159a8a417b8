//go:build linux && (amd64 || arm64)

package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main(map[string]sandbox.Handler{HandlerName: Handler})
	os.Exit(m.Run())
}

func child(t *testing.T, limits sandbox.Limits) *sandbox.Child {
	t.Helper()
	c, err := sandbox.Start(t.Context(), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The child gives what the same process gives.
func TestJudge(t *testing.T) {
	c := child(t, sandbox.Limits{})
	files := examples(t)
	want, err := Evaluate(t.Context(), files, testInput(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one child serves many calls
		got, err := Judge(t.Context(), c, files, testInput(t))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if err := Check(t.Context(), c, files); err != nil {
		t.Errorf("Check: %v", err)
	}
	for _, call := range []func(map[string][]byte) error{
		func(f map[string][]byte) error { return Check(t.Context(), c, f) },
		func(f map[string][]byte) error { _, err := Judge(t.Context(), c, f, testInput(t)); return err },
	} {
		err := call(source(`deny contains "x" if input.netwrok`))
		var problems model.Problems
		want := "guard/g.rego:5:22: undefined ref: input.netwrok\n    hint: one of commit, diff, network"
		if !errors.As(err, &problems) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestHandlerRejects(t *testing.T) {
	for _, message := range []string{
		``, `{`, `{"flies": {}}`, `{"files": {}} {}`, `{"do": "judge", "files": {"guard/a.rego": 1}}`, `{"do": "judge", "input": {"nework": {}}}`,
		`{}`, `{"do": "dance"}`, `{"do": "judge"}`, `{"do": "generate"}`,
	} {
		if answer, err := Handler(t.Context(), []byte(message)); err == nil {
			t.Errorf("%s: got %s", message, answer)
		}
	}
	answer, err := Handler(t.Context(), []byte(`{"do": "judge", "files": {}, "input": {}}`))
	want := `{"result":{"deny":[],"warn":[],"approvals":[],"checked":{},"printed":[]}}`
	if err != nil || string(answer) != want {
		t.Errorf("no guards: got %s, %v; want %s", answer, err, want)
	}
}

// A bomb is refused for the limit it exceeds, and soon.
func TestBombs(t *testing.T) {
	limits := sandbox.Limits{Memory: 256 << 20, CPU: time.Second, Wall: 6 * time.Second}
	loop := "some a in numbers.range(1, 3000)\n\tsome b in numbers.range(1, 3000)\n\tsome c in numbers.range(1, 3000)\n\ta + b + c < 0"
	for _, v := range []struct {
		name   string
		source string
		want   []error // any of these
	}{
		{"a range of a billion", `deny contains "x" if count(numbers.range(1, 1000000000)) < 1`, []error{sandbox.ErrMemory, sandbox.ErrCPU, errEndless}},
		{"nested loops", "deny contains \"x\" if {\n\t" + loop + "\n}", []error{sandbox.ErrCPU, sandbox.ErrWall, errEndless}},
		{"a comprehension of loops", "deny contains \"x\" if count([1 |\n\t" + strings.Replace(loop, "< 0", "> 0", 1) + "\n]) < 1", []error{sandbox.ErrMemory, sandbox.ErrCPU, sandbox.ErrWall, errEndless}},
		{"a string that doubles", `deny contains "x" if {
	s := concat("", ["0123456789" | some _ in numbers.range(1, 1000)])
	t := replace(s, "0", s)
	u := replace(t, "1", t)
	v := replace(u, "2", u)
	count(v) < 1
}`, []error{sandbox.ErrMemory, sandbox.ErrCPU, sandbox.ErrWall, errEndless}},
		{"a date far away", `deny contains "x" if time.add_date(0, 1000000000, 0, 0) < 1`, []error{errProblem}},
		{"a number of a billion digits", `deny contains "x" if to_number("1e1000000000") * 3 == 1`, []error{sandbox.ErrMemory, sandbox.ErrCPU, sandbox.ErrWall, errEndless, errProblem}},
		{"a shift by a billion", `deny contains "x" if bits.lsh(1, 10000000000) < 1`, []error{sandbox.ErrMemory, sandbox.ErrCPU, sandbox.ErrWall, errEndless, errProblem, sandbox.ErrCrashed}},
		{"a repetition of repetitions", `deny contains "x" if regex.match("((a{1,100}){1,100}){1,100}", "a")`, []error{errProblem}},
		{"deep nesting", `deny contains "x" if ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), []error{sandbox.ErrMemory, sandbox.ErrCPU, sandbox.ErrWall, errProblem}},
		{"a format that pads", `deny contains "x" if count(sprintf("%1000000000d", [1])) < 1`, []error{sandbox.ErrMemory, errProblem, errNothing}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			c := child(t, limits)
			result, err := Judge(t.Context(), c, source(v.source), testInput(t))
			if !anyOf(err, v.want) {
				t.Errorf("got %+v, %v; want one of %v", result, err, v.want)
			}
			t.Logf("after %s: %v", time.Since(began).Round(time.Millisecond), err)
			if took := time.Since(began); took > limits.Wall+10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// What takes too much is told with the files that may be it: the child, which knew,
// is gone.
func TestLimitNamesFiles(t *testing.T) {
	files := source(`deny contains "x" if true`)
	maps.DeleteFunc(files, func(string, []byte) bool { return true })
	long := "rules[\"x\"] := {} if {\n\tsome a in numbers.range(1, 3000)\n\tsome b in numbers.range(1, 3000)\n\tsome c in numbers.range(1, 3000)\n\ta + b + c < 0\n}"
	for _, name := range []string{"d", "b", "a", "c"} {
		files["generate/"+name+".rego"] = []byte("package generate." + name + "\n\n" + long)
	}
	_, _, err := Generate(t.Context(), child(t, sandbox.Limits{Memory: 256 << 20, CPU: time.Second, Wall: 6 * time.Second}), files, testInput(t).Network)
	var failure *sandbox.Failure
	// Where the child is slow to be ended, it has time to say itself which one it is.
	if strings.HasPrefix(fmt.Sprint(err), "generate/a.rego: generator a does not end: ") {
		return
	}
	if want := "generate rules of generate/a.rego, generate/b.rego, generate/c.rego and 1 more: "; !errors.As(err, &failure) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s and the limit", err, want)
	}
}

// A test that does not end is told by its name, or by the limit it exceeds.
func TestTestThatDoesNotEnd(t *testing.T) {
	files := source(`deny contains "x" if input.commit.hash == "1"`)
	files["guard/g_test.rego"] = []byte("package guard.g_test\n\ntest_long if {\n\tsome a in numbers.range(1, 3000)\n\tsome b in numbers.range(1, 3000)\n\tsome c in numbers.range(1, 3000)\n\ta + b + c < 0\n}")
	_, err := Try(t.Context(), child(t, sandbox.Limits{Memory: 256 << 20, CPU: time.Second, Wall: 6 * time.Second}), files, true)
	if want := "guard/g_test.rego: test of a guard g_test does not end: "; err == nil || !strings.HasPrefix(err.Error(), want) && !errors.Is(err, sandbox.ErrCPU) && !errors.Is(err, sandbox.ErrWall) {
		t.Errorf("got %v, want %s or a limit", err, want)
	}
}

var (
	errProblem = errors.New("a problem with a place")
	errEndless = errors.New("a guard that takes too long")
	errNothing = errors.New("no error: it ended within the limits")
)

func anyOf(err error, want []error) bool {
	var problems model.Problems
	isProblem := errors.As(err, &problems)
	for _, w := range want {
		switch {
		case w == errNothing && err == nil,
			w == errEndless && isProblem && strings.HasPrefix(err.Error(), "guard/g.rego: guard g does not end: the time of this policy's evaluation is used up"),
			w == errProblem && isProblem,
			err != nil && errors.Is(err, w):
			return true
		}
	}
	return false
}

// What is sent is what arrives.
func TestRequestRoundTrip(t *testing.T) {
	in := testInput(t)
	b, err := json.Marshal(request{Do: doJudge, Files: source("x"), Input: &in})
	if err != nil {
		t.Fatal(err)
	}
	var got request
	if err := strict(b, &got); err != nil || !reflect.DeepEqual(got, request{Do: doJudge, Files: source("x"), Input: &in}) {
		t.Errorf("got %+v, %v", got, err)
	}
}
