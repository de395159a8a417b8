package model

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzLoad holds that no file makes Load panic or answer both ways, and that
// what it answers survives JSON. The seeds are the archives' files.
func FuzzLoad(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range ar.Files {
			if file.Name != wantFile {
				f.Add(file.Data, filepath.Ext(file.Name) == ".json")
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, data bool) {
		// What is larger can evaluate for longer than a fuzz run, and is
		// ended by the limits of the child process.
		if len(text) > 4096 {
			return
		}
		texts := map[string]string{"a.cue": string(text)}
		if data {
			texts = map[string]string{"a.cue": smallest, "data/a.json": string(text)}
		}
		p, err := Load(files(texts))
		if (p == nil) == (err == nil) {
			t.Fatalf("Load = %v, %v", p, err)
		}
		roundTrip(t, p, err)
	})
}
