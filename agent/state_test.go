package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDefaultState(t *testing.T) {
	service := t.TempDir()
	home := filepath.Join(t.TempDir(), "home")
	t.Setenv("HOME", home)
	own := filepath.Join(home, ".local/state/writ")
	file := filepath.Join(service, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, unit, xdg, service string
		about                    bool
		want                     string
	}{
		{"the unit's", "/var/lib/a", "/home/x", service, true, "/var/lib/a"},
		{"the first of the unit's", "/var/lib/a:/var/lib/b", "/home/x", service, true, "/var/lib/a"},
		{"the user's choice", "", "/home/x", service, true, "/home/x/writ"},
		{"no choice: a relative path", "", "x", service, true, service},
		{"the service's", "", "", service, true, service},
		{"no service", "", "", filepath.Join(service, "none"), true, own},
		{"no directory", "", "", file, true, own},
		{"up", "", "", service, false, own},
	} {
		t.Setenv("STATE_DIRECTORY", tc.unit)
		t.Setenv("XDG_STATE_HOME", tc.xdg)
		if got := defaultState(tc.about, tc.service); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}

// A key that root has made for the service is one that the service can read.
func TestIDForTheService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: NOT TRIED with a directory of another user")
		return
	}
	const user, group = 65534, 65533
	dir := t.TempDir()
	if err := os.Chown(dir, user, group); err != nil {
		t.Fatal(err)
	}
	print := func() string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := command(t.Context(), []string{"--state", dir, "id"}, &out, &errs); code != 0 {
			t.Fatalf("id: exit %d, %s", code, errs.String())
		}
		return out.String()
	}
	made := print()
	if !strings.HasPrefix(made, "idpub:") {
		t.Errorf("id: got %q, want an identity key", made)
	}
	file := filepath.Join(dir, "identity.key")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != user || s.Gid != group || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is of user %d and group %d with mode %04o, want %d, %d, 0600", s.Uid, s.Gid, info.Mode().Perm(), user, group)
	}
	if again := print(); again != made {
		t.Errorf("id again: got %q, want %q", again, made)
	}

	// What another has put in its place is not given away.
	for name, link := range map[string]func(string, string) error{"link": os.Symlink, "second name": os.Link} {
		other := filepath.Join(t.TempDir(), "other")
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := link(other, at); err != nil {
			t.Logf("%s: %v: NOT TRIED", name, err)
			continue
		}
		if err := giveToOwner(at); err == nil {
			t.Errorf("a %s of another file is given away", name)
		}
		if info, err := os.Stat(other); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("the other file is not root's any more (%v)", err)
		}
	}
}
