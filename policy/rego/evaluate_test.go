package rego

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/rogpeppe/go-internal/txtar"
)

// examples are the guards of an archive.
func examples(t testing.TB) map[string][]byte { return guardsOf(t, "examples") }

func guardsOf(t testing.TB, name string) map[string][]byte {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, ".rego") {
			files[f.Name] = f.Data
		}
	}
	return files
}

// OPA's own front door, asked for data.guard without our doubled rules, finds
// the same messages.
func TestAgainstOPA(t *testing.T) {
	for _, name := range []string{"examples", "verdicts"} {
		files, input := guardsOf(t, name), testInput(t)
		document, err := input.document()
		if err != nil {
			t.Fatal(err)
		}
		options := []func(*rego.Rego){rego.Query("data.guard"), rego.Input(document)}
		for file, source := range files {
			options = append(options, rego.Module(file, string(source)))
		}
		set, err := rego.New(options...).Eval(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string]bool)
		for pkg, rules := range set[0].Expressions[0].Value.(map[string]any) {
			for _, verdict := range verdicts {
				items, _ := rules.(map[string]any)[verdict].([]any)
				for _, item := range items {
					if object, ok := item.(map[string]any); ok {
						item = object["msg"]
						if verdict == "require_approval" {
							item = object["reason"]
						}
					}
					want[fmt.Sprint(pkg, " ", verdict, " ", item)] = true
				}
			}
		}
		result, err := Evaluate(t.Context(), files, input)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]bool)
		note := func(guard, verdict, text string) {
			got[fmt.Sprint(strings.ReplaceAll(guard, "-", "_"), " ", verdict, " ", text)] = true
		}
		for _, f := range result.Deny {
			note(f.Guard, "deny", f.Message)
		}
		for _, f := range result.Warn {
			note(f.Guard, "warn", f.Message)
		}
		for _, a := range result.Approvals {
			note(a.Guard, "require_approval", a.Reason)
		}
		if len(want) == 0 || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, OPA finds %v", name, got, want)
		}
	}
}

// The same input gives the same bytes, and survives its JSON.
func TestDeterministic(t *testing.T) {
	files := guardsOf(t, "verdicts")
	maps.Copy(files, examples(t))
	var first []byte
	for range 10 {
		result, err := Evaluate(t.Context(), files, testInput(t))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if string(b) != string(first) {
			t.Fatalf("got %s, then %s", first, b)
		}
		var again Result
		if err := strict(b, &again); err != nil || !reflect.DeepEqual(&again, result) {
			t.Fatalf("round trip: got %+v, %v; want %+v", again, err, result)
		}
	}
}

// A policy without rules and a commit without effect still have their lists.
func TestEmptyInput(t *testing.T) {
	files := source(`deny contains "lists are missing" if {
	count(input.network.rules) + count(input.diff.gained) + count(input.diff.lost) + count(input.commit.parents) != 0
}`, ``, `warn contains "lists are there" if {
	count(input.network.rules) + count(input.diff.gained) + count(input.diff.lost) + count(input.commit.parents) == 0
}`)
	network := testInput(t).Network
	network.Rules = nil
	result, err := Evaluate(t.Context(), files, Input{Network: network})
	if err != nil || len(result.Deny) != 0 || len(result.Warn) != 1 {
		t.Errorf("got %+v, %v; want one warning", result, err)
	}
}

func TestManyFindings(t *testing.T) {
	files := source(fmt.Sprintf("deny contains sprintf(\"%%d\", [n]) if some n in numbers.range(0, %d)", maxFindings))
	_, err := Evaluate(t.Context(), files, testInput(t))
	if want := "guard/g.rego: the guards find more than 10000 things"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestContextEnds(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := Evaluate(ctx, source(`deny contains "x" if {
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a + b < 0
}`), testInput(t))
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

// A guard that does not end is stopped by name, without the child's help.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		<-ctx.Done()
		_, err := Evaluate(ctx, examples(t), testInput(t))
		want := "guard/expiry.rego: guard expiry does not end: the time of this policy's evaluation is used up"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// Every function on the list exists in this version of OPA, and none depends on
// anything but its arguments.
func TestCapabilities(t *testing.T) {
	var have []string
	for _, b := range capabilities().Builtins {
		have = append(have, b.Name)
	}
	slices.Sort(have)
	want := slices.Sorted(slices.Values(builtins))
	if !slices.Equal(have, want) {
		t.Errorf("got %v, want %v", have, want)
	}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		for _, prefix := range []string{"http.", "opa.", "rand.", "uuid.", "io.", "rego.", "providers.", "trace", "time.now", "net.lookup"} {
			if strings.HasPrefix(b.Name, prefix) && slices.Contains(have, b.Name) {
				t.Errorf("%s can be called", b.Name)
			}
		}
	}
	if n := capabilities().AllowNet; n == nil || len(n) != 0 {
		t.Errorf("the compiler may fetch from %v", n)
	}
}

func FuzzGuard(f *testing.F) {
	for _, name := range []string{"examples", "verdicts", "syntax", "rules", "data", "strict", "with"} {
		for file, b := range guardsOf(f, name) {
			f.Add(strings.TrimSuffix(filepath.Base(file), ".rego"), string(b))
		}
	}
	f.Add("x", "package guard.x\n\ndeny contains {} if {")
	f.Add("x", "package guard[\"x\"]\n\nchecked := 1\ndeny contains a.b.c if a := input")
	f.Fuzz(func(t *testing.T, stem, source string) {
		if len(source) > 1<<10 { // the compiler has no deadline; the child has
			t.Skip()
		}
		guards, err := Compile(map[string][]byte{"guard/" + stem + ".rego": []byte(source)})
		if (guards == nil) == (err == nil) {
			t.Errorf("got %v, %v", guards, err)
		}
	})
}
