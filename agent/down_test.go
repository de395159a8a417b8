package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dying is the variable that makes the test's program an agent that takes its
// time to end.
const dying = "WRIT_TEST_DYING"

func TestMain(m *testing.M) {
	if socket := os.Getenv(dying); socket != "" {
		die(socket)
	}
	os.Exit(m.Run())
}

// die answers one request, and ends when it has read all of its input.
func die(socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{}")
		http.NewResponseController(w).Flush()
		l.Close() // as an agent that ends: its socket goes first
		fmt.Println(r.URL.Path)
	}))
	fmt.Println("listens")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func TestDownWaitsForTheEnd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	agent := exec.Command(os.Args[0])
	agent.Env = append(os.Environ(), dying+"="+socket)
	agent.Stderr = os.Stderr
	alive, err := agent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	says, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Wait()
	defer alive.Close()
	line := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(says, b); err != nil || string(b) != want {
			t.Fatalf("the agent says %q (%v), want %q", b, err, want)
		}
	}
	line("listens\n")
	var out bytes.Buffer
	code := make(chan int)
	go func() { code <- command(t.Context(), []string{"--socket", socket, "down"}, &out, &out) }()
	line("/v1/down\n")
	select {
	case c := <-code:
		t.Fatalf("down: exit %d (%s) while the agent ends, want it to wait", c, out.String())
	case <-time.After(300 * time.Millisecond): // three looks
	}
	alive.Close()
	if c := <-code; c != 0 {
		t.Errorf("down: got exit %d (%s), want 0", c, out.String())
	}
}

func TestDownWithoutAnAgent(t *testing.T) {
	var out bytes.Buffer
	socket := filepath.Join(t.TempDir(), "agent.sock")
	if c := command(t.Context(), []string{"--socket", socket, "down"}, &out, &out); c != 1 || !strings.Contains(out.String(), "no agent answers at "+socket) {
		t.Errorf("down: got exit %d (%s), want 1 and that no agent answers", c, out.String())
	}
}
