package node

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	for name, want := range map[string]string{identityFile: id.Secret() + "\n", wgFile: wg.Secret() + "\n"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s: got mode %v, want -rw-------", name, info.Mode())
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: got another key than was given, %v", name, err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: got %v, %v, want mode 0700", info.Mode(), err)
	}
	again, err := Identity(dir)
	if err != nil || !again.Equal(id) {
		t.Errorf("read again: another identity, %v", err)
	}
	wgAgain, err := wireGuard(dir)
	if err != nil || !wgAgain.Equal(wg) {
		t.Errorf("read again: another WireGuard key, %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v, want the two files alone", entries, err)
	}
}

// A file that cannot be used is an error and stays as it is: another identity
// would be another node.
func TestKeyFileRefused(t *testing.T) {
	good := key.NewIdentity().Secret()
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"readable by the group", good + "\n", 0o640, "can be read by others (mode 0640): chmod 600 it"},
		{"readable by all", good + "\n", 0o604, "can be read by others (mode 0604): chmod 600 it"},
		{"writable by all", good + "\n", 0o602, "can be read by others (mode 0602): chmod 600 it"},
		{"empty", "", 0o600, identityFile},
		{"cut short", good[:len(good)-1], 0o600, identityFile},
		{"of another kind", key.NewWG().Secret(), 0o600, identityFile},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, identityFile)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			k, err := Identity(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error with %q that names the file", err, c.want)
			}
			if c.content != "" && err != nil && strings.Contains(err.Error(), c.content[len(c.content)/2:]) {
				t.Errorf("the error shows the key: %v", err)
			}
			if !k.Equal(key.IdentityPrivate{}) {
				t.Error("got a key beside the error, want none")
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != c.content {
				t.Errorf("got %q, %v, want the file untouched", b, err)
			}
		})
	}
}

// Whoever comes second gets an error or the first one's key, never one of its own.
func TestKeyFileMadeTwice(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for range 8 {
		all.Go(func() {
			k, err := Identity(dir)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[k.Secret()]++
		})
	}
	all.Wait()
	k, err := Identity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[k.Secret()] == 0 {
		t.Errorf("%d different keys were given, want the one in the file alone", len(got))
	}
}
