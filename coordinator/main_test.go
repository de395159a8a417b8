package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// lines is what a command writes, readable while it runs.
type lines struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // holds a token when something was written
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits for a line that matches and returns its submatches.
func (l *lines) await(t *testing.T, pattern string) []string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	re := regexp.MustCompile(pattern)
	for {
		if m := re.FindStringSubmatch(l.String()); m != nil {
			return m
		}
		select {
		case <-l.more:
		case <-timeout:
			t.Fatalf("no line matches %q in:\n%s", pattern, l)
		}
	}
}

func exec(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string // what each contains; "" is nothing
	}{
		{nil, 2, "", "Usage: coordinator <command>"},
		{[]string{"--help"}, 0, "Usage: coordinator <command>", ""},
		{[]string{"--version"}, 0, "devel", ""},
		{[]string{"run"}, 2, "", "missing flags: --listen=ADDR, --state=DIR"},
		{[]string{"serve"}, 2, "", "unexpected argument serve"},
		{[]string{"id"}, 2, "", "missing flags: --state=DIR"},
		{[]string{"run", "--state", dir, "--listen", "127.0.0.1:0"}, 2, "", "no root document: a coordinator must be told which network it serves: give --root"},
		{[]string{"run", "--state", dir, "--listen", "127.0.0.1:0", "--root", dir}, 2, "", "has no root-1.note"},
		{[]string{"status", "--state", dir}, 2, "", "ask the coordinator on"},
		{[]string{"join-string", "--state", filepath.Join(dir, "none"), "--addr", "a:1"}, 2, "", "state directory"},
	} {
		code, stdout, stderr := exec(t.Context(), c.args...)
		if code != c.code {
			t.Errorf("%q: exit code %d, want %d", c.args, code, c.code)
		}
		for _, s := range []struct{ name, got, want string }{{"stdout", stdout, c.stdout}, {"stderr", stderr, c.stderr}} {
			if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
				t.Errorf("%q: %s is %q, want %q", c.args, s.name, s.got, s.want)
			}
		}
	}
}

func TestIDIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	code, first, stderr := exec(t.Context(), "id", "--state", dir)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	if _, err := key.ParseIdentityPublic(strings.TrimSuffix(first, "\n")); err != nil {
		t.Errorf("got %q: %v", first, err)
	}
	if _, again, _ := exec(t.Context(), "id", "--state", dir); again != first {
		t.Errorf("the second time: got %q, want %q", again, first)
	}
	path := filepath.Join(dir, keyFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: got %v, %v, want mode 0600", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := exec(t.Context(), "id", "--state", dir); code != 2 || !strings.Contains(stderr, "is open to others (mode 0640): chmod 600 it") {
		t.Errorf("a key that others may read: exit code %d, stderr %q", code, stderr)
	}
	if err := os.WriteFile(path, []byte("idkey:short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := exec(t.Context(), "id", "--state", dir); code != 2 || strings.Contains(stderr, "short\n") {
		t.Errorf("a damaged key: exit code %d, stderr %q, want 2 and the key not printed", code, stderr)
	}
}

func TestMetricsAreForLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, ":0": false, "0.0.0.0:0": false, "192.0.2.1:0": false, "nonsense": false} {
		l, err := listenLoopback(addr)
		if l != nil {
			l.Close()
		}
		if !ok && err == nil {
			t.Errorf("%s: got no error", addr)
		}
		if ok && err != nil && addr == "127.0.0.1:0" {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// A coordinator's life, as an administrator sees it.
func TestLife(t *testing.T) {
	w := netmaptest.New(t, time.Now().Add(-time.Minute))
	trustDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(trustDir, "root-1.note"), w.Roots[0], 0o644); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "writ") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	_, pinText, _ := exec(t.Context(), "id", "--state", dir)
	pin, err := key.ParseIdentityPublic(strings.TrimSuffix(pinText, "\n"))
	if err != nil {
		t.Fatal(err)
	}

	for _, start := range []string{"first start", "second start, without --root"} {
		args := []string{"run", "--state", dir, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"}
		if start == "first start" {
			args = append(args, "--root", trustDir)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		log, exit := newLines(), make(chan int, 1)
		go func() { exit <- command(ctx, args, newLines(), log) }()
		addr := log.await(t, `msg="coordinator runs" .*listen=(\S+)`)[1]
		log.await(t, `pin=`+pin.String())

		var status string
		code := 2
		for code == 2 { // the admin socket comes a moment later
			if code, status, _ = exec(t.Context(), "status", "--state", dir); len(exit) > 0 {
				t.Fatalf("%s: it ended: %s", start, log)
			}
		}
		if start == "first start" {
			if want := "no revision is published"; code != 1 || !strings.Contains(status, want) {
				t.Errorf("%s: status exits %d with %q, want 1 with %q", start, code, status, want)
			}
			publish(t, w, addr, pin)
			code, status, _ = exec(t.Context(), "status", "--state", dir)
		}
		if want := "revision 0000000: enforced on 0 of 0 nodes\n"; code != 0 || !strings.Contains(status, want) {
			t.Errorf("%s: status exits %d with %q, want 0 with %q", start, code, status, want)
		}
		if _, out, _ := exec(t.Context(), "status", "--json", "--state", dir); !strings.Contains(out, `"network": "`+w.Network.String()+`"`) {
			t.Errorf("%s: status --json: %s", start, out)
		}
		code, out, stderr := exec(t.Context(), "join-string", "--state", dir, "--addr", "coordinator.example:7443")
		j, err := papers.ParseJoinString(out)
		if code != 0 || err != nil || j.Network != w.Network || len(j.Coordinators) != 1 || !j.Coordinators[0].Pin.Equal(pin) {
			t.Errorf("%s: join-string exits %d with %q, %q: %+v, %v", start, code, out, stderr, j, err)
		}
		if code, _, stderr := exec(t.Context(), args...); code != 2 || !strings.Contains(stderr, "another coordinator runs on this state directory") {
			t.Errorf("%s: a second one exits %d with %q", start, code, stderr)
		}
		cancel()
		if code := <-exit; code != 0 {
			t.Errorf("%s: stopped, it exits %d, want 0: %s", start, code, log)
		}
	}
	if code, out, _ := exec(t.Context(), "join-string", "--state", dir, "--addr", "a.example:1", "--root", trustDir); code != 0 || !strings.HasPrefix(out, "writ1_") {
		t.Errorf("join-string of one that does not run: exits %d with %q", code, out)
	}
	if code, _, _ := exec(t.Context(), "join-string", "--state", dir, "--addr", "no-port", "--root", trustDir); code != 2 {
		t.Errorf("join-string with a bad address: exits %d, want 2", code)
	}
}

func publish(t *testing.T, w *netmaptest.World, addr string, pin key.IdentityPublic) {
	t.Helper()
	id, err := w.PolicyKey.TLSIdentity()
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: tlskey.ClientConfig(id, pin), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	r := w.Publish(netmaptest.Policy{})
	m := &wire.PublishRequest{Roots: w.Roots, Manifest: r.Doc.Manifest, Changes: r.Doc.Changes, Ended: w.EndedDoc}
	for name, l := range r.Leaves {
		m.Leaves = append(m.Leaves, &wire.Leaf{Name: name, Data: l.Data})
	}
	if _, err := wireconnect.NewPublisherClient(&http.Client{Transport: tr}, "https://"+addr).Publish(t.Context(), connect.NewRequest(m)); err != nil {
		t.Fatal(err)
	}
}
