package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
)

func joinString(network byte) string {
	return papers.JoinString{
		Network:      key.NetworkID{network},
		Coordinators: []leaf.Coordinator{{Addr: "127.0.0.1:1", Pin: key.NewIdentity().Public()}},
	}.String()
}

// An agent that may not run leaves the other one's join string alone.
func TestRefusedUpKeepsTheJoinString(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "join")
	if err := os.WriteFile(kept, []byte(joinString(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	code := command(t.Context(), []string{"--state", dir, "up", "--userspace", "--name", "n", "--join", joinString(2)}, &stderr, &stderr)
	if code != 2 || !strings.Contains(stderr.String(), "another agent uses") {
		t.Errorf("up: exit %d, %q; want 2 and that another agent runs", code, stderr.String())
	}
	if after, err := os.ReadFile(kept); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the join string is %q (%v), want what it was", after, err)
	}
}

// What the machine cannot give is said before anybody is asked for anything.
func TestUpTriesTheMachine(t *testing.T) {
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.LocalAddr().(*net.UDPAddr).Port)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--interface", "bad name/x"}, `create device "bad name/x"`},
		{[]string{"--interface", "sixteen-letters-"}, "a name has 1 to 15 bytes"},
		{[]string{"--userspace", "--port", port}, "address already in use"},
	} {
		dir := t.TempDir()
		var stderr bytes.Buffer
		args := append([]string{"--state", dir, "up", "--name", "n", "--join", joinString(1)}, tc.args...)
		if code := command(t.Context(), args, &stderr, &stderr); code != 2 || !strings.Contains(stderr.String(), tc.want) {
			t.Errorf("%q: exit %d, %q; want 2 and %q", tc.args, code, stderr.String(), tc.want)
		}
		for _, name := range []string{"identity.key", "join"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%q: made %s", tc.args, name)
			}
		}
	}
}

// What cannot work is refused before anything runs.
func TestUpRefuses(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--name", "../x"}, `--name: node name "../x"`},
		{[]string{"--proxy", "0.0.0.0:1055"}, "listens on loopback only"},
		{[]string{"--proxy", "1055"}, "want an address of loopback and a port"},
		{[]string{"--forward", "udp/53=127.0.0.1:53"}, "only tcp can be forwarded"},
		{[]string{"--secret-file", "/nowhere"}, "enrolment secret"},
	} {
		dir := t.TempDir()
		var stderr bytes.Buffer
		args := append([]string{"--state", dir, "up", "--userspace", "--join", joinString(1)}, tc.args...)
		if code := command(t.Context(), args, &stderr, &stderr); code != 2 || !strings.Contains(stderr.String(), tc.want) {
			t.Errorf("%q: exit %d, %q; want 2 and %q", tc.args, code, stderr.String(), tc.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%q: left %v behind (%v)", tc.args, left, err)
		}
	}
}
