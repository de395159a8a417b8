package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
)

func TestKeyFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	id, err := Identity(dir)
	if err != nil {
		t.Fatal(err)
	}
	wg, err := wireGuard(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"identity.key":  id.Secret() + "\n" + id.Public().String() + "\n",
		"wireguard.key": wg.Secret() + "\n" + wg.Public().String() + "\n",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: got another key than was given, %v", name, err)
		}
	}
	again, err := Identity(dir)
	if err != nil || !again.Equal(id) {
		t.Errorf("read again: another identity, %v", err)
	}
	wgAgain, err := wireGuard(dir)
	if err != nil || !wgAgain.Equal(wg) {
		t.Errorf("read again: another WireGuard key, %v", err)
	}
}

// An agent whose key is damaged does not start: with another identity it would be
// another node, with another WireGuard key one that no peer knows.
func TestDamagedKeys(t *testing.T) {
	for _, name := range []string{IdentityFile, wgFile} {
		dir := t.TempDir()
		if _, err := Identity(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := wireGuard(dir); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := b[20]
		if b[20] = 'a'; was == 'a' {
			b[20] = 'b'
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err = Run(t.Context(), Config{Dir: dir, Socket: filepath.Join(dir, "agent.sock")})
		if want := path + " is damaged: its two lines disagree"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, wgFile)
	if err := os.WriteFile(path, []byte(key.NewIdentity().Secret()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wireGuard(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a key of another kind: got %v, want an error that names %s", err, path)
	}
}
