package model

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFormat(t *testing.T) {
	const written = "package   network\r\n\r\n// About rules.\r\nrules:    {\r\n  \"a\":  {from: [  \"*\"],to:[\"tag:a\"]   // to whom\r\n allow:[\"tcp/80\"]}\r\n}\r\n"
	const want = `package network

// About rules.
rules: {
	"a": {from: ["*"], to: ["tag:a"] // to whom
		allow: ["tcp/80"]}
}
`
	got, err := Format("a.cue", []byte(written))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFormatRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"package network\nrules: {":                        "a.cue:2:",
		"package network\na: " + strings.Repeat("[", 2000): "nested more than 1000 deep",
	} {
		out, err := Format("a.cue", []byte(text))
		if err == nil || out != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %q, %v, want an error with %q", text, out, err, want)
		}
	}
}

// TestFormatKeepsTheMeaning formats every example: it loads as before, but for
// places, keeps all comments, and is formatted to itself.
func TestFormatKeepsTheMeaning(t *testing.T) {
	dirs, err := filepath.Glob("../../examples/*/network.cue")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		before, after := fstest.MapFS{}, fstest.MapFS{}
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			before[name] = &fstest.MapFile{Data: text}
			after[name] = before[name]
			if filepath.Ext(name) == ".cue" && !strings.HasPrefix(name, "cue.mod") {
				out, err := Format(name, text)
				if err != nil {
					return err
				}
				again, err := Format(name, out)
				if err != nil || !bytes.Equal(again, out) {
					t.Errorf("%s: formatted twice: got %q, %v, want %q", path, again, err, out)
				}
				if got, want := bytes.Count(out, []byte("//")), bytes.Count(text, []byte("//")); got != want {
					t.Errorf("%s: comments: got %d, want %d", path, got, want)
				}
				after[name] = &fstest.MapFile{Data: out}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		was, err := Load(before)
		if err != nil {
			continue // an example of what is wrong
		}
		is, err := Load(after)
		if err != nil {
			t.Errorf("%s: formatted, it does not load: %v", dir, err)
			continue
		}
		if got, want := withoutPlaces(t, is), withoutPlaces(t, was); got != want {
			t.Errorf("%s: formatted, it says something else:\ngot  %s\nwant %s", dir, got, want)
		}
	}
}

// withoutPlaces is a policy without its places.
func withoutPlaces(t *testing.T, p *Policy) string {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "place")
			for _, x := range v {
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		}
	}
	strip(v)
	if b, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the formatter would lose is found.
func TestSameTokens(t *testing.T) {
	const text = "a: {b: 1, c: 2} // x\n"
	for other, want := range map[string]bool{
		"a: {\n\tb: 1\n\tc: 2\n}\n// x\n": true,
		"a: {b: 1, c: 2}\n":               false,
		"a: {b: 1} // x\n":                false,
		"a: {b: 1, c: 3} // x\n":          false,
	} {
		if got := sameTokens([]byte(text), []byte(other)); got != want {
			t.Errorf("%q: got %t, want %t", other, got, want)
		}
	}
}

// FuzzFormat: no panic; what is formatted is formatted to itself.
func FuzzFormat(f *testing.F) {
	f.Add([]byte("package network\nrules: a: {from: [\"*\"], to: [\"tag:a\"]} // x\n"))
	f.Add([]byte("\xef\xbb\xbfpackage network\r\n/* no */\r\n"))
	f.Add([]byte("a: #\"\"\"\n  x\n  \"\"\"#\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := Format("a.cue", text)
		if err != nil {
			return
		}
		again, err := Format("a.cue", out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("formatted twice: got %q, %v, want %q", again, err, out)
		}
	})
}
