package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Two relays on one state directory would overwrite what the other has verified.
func TestOneRelayPerStateDirectory(t *testing.T) {
	dir, join := t.TempDir(), nobodyThere(t)
	args := []string{"--state", dir, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--join", join}
	for _, round := range []string{"first", "after the first has ended"} {
		ctx, cancel := context.WithCancel(t.Context())
		log := &watched{grown: make(chan struct{}, 1)}
		code := make(chan int, 1)
		go func() { code <- command(ctx, args, io.Discard, log) }()
		log.find(t, `relay listens" addr=(\S+)`)

		var stderr bytes.Buffer
		want := fmt.Sprintf("relay: another relay (process %d) uses %s\n", os.Getpid(), dir)
		if code := command(t.Context(), args, io.Discard, &stderr); code != 2 || stderr.String() != want {
			t.Errorf("%s: a second relay: exit code %d, %q; want 2 and %q", round, code, stderr.String(), want)
		}
		if _, errs, code := printID(t, dir); code != 0 {
			t.Errorf("%s: id beside it: exit code %d, %q; want 0", round, code, errs)
		}
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("%s: exit code %d, want 0", round, c)
		}
	}
	// What an earlier process left in the file keeps nobody out.
	if err := os.WriteFile(filepath.Join(dir, lockFile), []byte(strings.Repeat("9", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if b, err := os.ReadFile(filepath.Join(dir, lockFile)); err != nil || string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("lock file: got %q, %v, want this process alone", b, err)
	}
}
