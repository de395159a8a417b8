package document

import (
	"os"
	"path/filepath"
	"testing"
)

// Install links the programs of a directory into another by the names that "make
// install" gives them, which are those of documents.
func Install(t testing.TB, from, to string) {
	t.Helper()
	for _, p := range []string{"policy", "sync", "coordinator", "agent", "relay"} {
		name := "writ-" + p
		if p == "policy" {
			name = p
		}
		if err := os.Symlink(filepath.Join(from, p), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
}
