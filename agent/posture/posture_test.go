package posture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	release := write(t, "os-release", "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\nID=debian\n")
	custom := write(t, "posture.json", `{"diskEncrypted": "true", "edr": "falcon 7"}`)
	got, err := Source{Version: "v1.2.3", File: custom, osRelease: []string{"/nowhere", release}}.Read()
	want := map[string]string{"os": system(runtime.GOOS), "osVersion": "13", "agentVersion": "1.2.3", "custom:diskEncrypted": "true", "custom:edr": "falcon 7"}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("got %v (-want +got):\n%s", err, d)
	}
	if !(acl.Posture{{Attr: "osVersion", Op: acl.OpLeast, Values: []string{"12.5"}}}).Met(got) {
		t.Error("the version of the system is none")
	}
	got, err = Source{osRelease: []string{write(t, "os-release", "ID=arch\n")}}.Read()
	if d := cmp.Diff(map[string]string{"os": system(runtime.GOOS)}, got); err != nil || d != "" {
		t.Errorf("without versions: got %v (-want +got):\n%s", err, d)
	}
}

func TestSystem(t *testing.T) {
	for goos, want := range map[string]string{"linux": "linux", "darwin": "macos", "windows": "windows"} {
		if got := system(goos); got != want {
			t.Errorf("%s: got %s, want %s", goos, got, want)
		}
	}
}

// A file that says something wrong reports nothing, and takes nothing else away.
func TestReadRefuses(t *testing.T) {
	many := "{"
	for i := range 16 {
		many += fmt.Sprintf("%q: \"x\",", fmt.Sprint("a", i))
	}
	for content, want := range map[string]string{
		"":                                 "not a JSON object",
		"[]":                               "not a JSON object",
		"{":                                "not a JSON object",
		`{"a": "b"`:                        "not a JSON object",
		`{"a": "b"} {}`:                    "something after the JSON object",
		`{"a": true}`:                      `"a": want a text in quotes`,
		`{"a": null, "b": ["x"]}`:          `"a": attribute value of 0 bytes: want 1 to 128`,
		`{"a b": "c"}`:                     `attribute "custom:a b": U+0020 is not allowed; use letters, digits, '-', '_' and '.'`,
		`{"a": "b\nc"}`:                    `"a": attribute value "b\nc": U+000A is not allowed`,
		`{"a": " b"}`:                      `"a": attribute value " b": spaces around it`,
		`{"a": "b", "a": "c"}`:             `"a" stands there twice`,
		many + `"z": "x"}`:                 "17 attributes, at most 14",
		strings.Repeat(" ", maxFile) + "{": "more than 65536 bytes",
	} {
		got, err := Source{Version: "1", File: write(t, "posture.json", content), osRelease: []string{}}.Read()
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) {
			t.Errorf("%.40q: got %v, want %s", content, err, want)
		}
		if d := cmp.Diff(map[string]string{"os": system(runtime.GOOS), "agentVersion": "1"}, got); d != "" {
			t.Errorf("%.40q (-want +got):\n%s", content, d)
		}
	}
	if _, err := (Source{File: "/nowhere/posture"}).Read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	if _, err := (Source{File: t.TempDir()}).Read(); err == nil || !strings.HasSuffix(err.Error(), "not a regular file") {
		t.Errorf("a directory: got %v", err)
	}
}

func TestWatch(t *testing.T) {
	file := write(t, "posture.json", `{"a": "1"}`)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var reports []string
		done := make(chan error)
		go func() {
			done <- Source{File: file, osRelease: []string{}}.Watch(ctx, func(attrs map[string]string, err error) {
				reports = append(reports, fmt.Sprint(attrs["custom:a"], " ", err != nil))
			})
		}()
		step := func(content string) {
			synctest.Wait()
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * Interval) // of the bubble's clock
		}
		step(`{"a": "1"}`)
		step(`{"a": "2"}`)
		step(`{"a": 3}`)
		step(`{"a": "2"}`)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if d := cmp.Diff([]string{"1 false", "2 false", " true", "2 false"}, reports); d != "" {
			t.Errorf("reports (-want +got):\n%s", d)
		}
	})
}

func FuzzParseCustom(f *testing.F) {
	f.Add([]byte(`{"diskEncrypted": "true", "edr": "falcon 7"}`))
	f.Add([]byte(`{"a": "b"} {}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		attrs, err := parseCustom(b)
		if err != nil {
			return
		}
		for attr, value := range attrs {
			if acl.CheckAttr(attr) != nil || acl.CheckAttrValue(value) != nil {
				t.Errorf("%q: reports %q as %q", b, attr, value)
			}
		}
	})
}
