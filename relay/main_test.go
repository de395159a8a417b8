package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string // what each contains; "" is nothing
	}{
		{nil, 2, "", "Usage: relay"},
		{[]string{"--help"}, 0, "Usage: relay", ""},
		{[]string{"--version"}, 0, version + "\n", ""},
		{[]string{"serve"}, 2, "", "missing flags: --join=STRING, --state=DIR"},
		{[]string{"--listen", ":0"}, 2, "", "missing flags: --join=STRING, --state=DIR"},
		{[]string{"--state", "/nowhere", "--listen", ":0"}, 2, "", "missing flags: --join=STRING"},
		{[]string{"--state", "/nowhere", "--join", "writ1_no"}, 2, "", "join string: damaged"},
		{[]string{"id"}, 2, "", "missing flags: --state=DIR"},
		{[]string{"--nonsense"}, 2, "", "unknown flag --nonsense"},
		{[]string{"forward"}, 2, "", "unexpected argument forward"},
	} {
		var stdout, stderr bytes.Buffer
		if code := command(t.Context(), c.args, &stdout, &stderr); code != c.code {
			t.Errorf("%q: exit code %d, want %d", c.args, code, c.code)
		}
		for _, s := range []struct{ name, got, want string }{{"stdout", stdout.String(), c.stdout}, {"stderr", stderr.String(), c.stderr}} {
			if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
				t.Errorf("%q: %s is %q, want %q", c.args, s.name, s.got, s.want)
			}
		}
	}
}

func printID(t *testing.T, dir string) (out, errs string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = command(t.Context(), []string{"id", "--state", dir}, &stdout, &stderr)
	return stdout.String(), stderr.String(), code
}

func TestIdentityIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	first, errs, code := printID(t, dir)
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d, %q", code, errs)
	}
	if _, err := key.ParseIdentityPublic(strings.TrimSuffix(first, "\n")); err != nil {
		t.Errorf("printed %q: %v", first, err)
	}
	if again, _, _ := printID(t, dir); again != first {
		t.Errorf("then %q, at first %q", again, first)
	}
	name := filepath.Join(dir, keyFile)
	st, err := os.Stat(name)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", st.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files in the state directory, want 1", len(entries))
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		mode os.FileMode
		data []byte
		want string
	}{
		{"others may read", 0o640, whole, "is open to others (mode 0640): chmod 600 it"},
		{"truncated", 0o600, whole[:20], "is damaged"},
		{"empty", 0o600, nil, "is damaged"},
		{"flipped", 0o600, bytes.Replace(whole, []byte("idkey:"), []byte("idkez:"), 1), "is damaged"},
		{"another key", 0o600, append([]byte(key.NewIdentity().Secret()), whole[bytes.IndexByte(whole, '\n'):]...), "is damaged: its two lines disagree"},
		{"longer", 0o600, append(bytes.Clone(whole), '\n'), "is damaged"},
	} {
		if err := os.WriteFile(name, c.data, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, c.mode); err != nil {
			t.Fatal(err)
		}
		out, errs, code := printID(t, dir)
		if code != 2 || out != "" || !strings.Contains(errs, c.want) || !strings.Contains(errs, keyFile) {
			t.Errorf("%s: exit code %d, %q, %q; want 2 and %q", c.name, code, out, errs, c.want)
		}
		if strings.Contains(errs, string(whole[6:20])) {
			t.Errorf("%s: the error shows the secret: %q", c.name, errs)
		}
		if got, _ := os.ReadFile(name); !bytes.Equal(got, c.data) {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
}

func TestIdentityMadeByTwoAtOnce(t *testing.T) {
	dir := t.TempDir()
	var got [8]key.IdentityPrivate
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = loadIdentity(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range got {
		if !got[i].Equal(got[0]) {
			t.Errorf("reader %d has another key", i)
		}
	}
}

// A watched buffer tells when it has grown.
type watched struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	grown chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.grown <- struct{}{}:
	default:
	}
	return w.buf.Write(b)
}

// find waits for what matches, and returns its first group.
func (w *watched) find(t *testing.T, re string) string {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		w.mu.Lock()
		m := regexp.MustCompile(re).FindStringSubmatch(w.buf.String())
		w.mu.Unlock()
		if m != nil {
			return m[1]
		}
		select {
		case <-w.grown:
		case <-limit:
			t.Fatalf("no %s in the log", re)
		}
	}
}

// gatekeeper is an admitter that changes its mind once.
type gatekeeper struct {
	revoke chan struct{}
	mu     sync.Mutex
	shut   bool
}

func (g *gatekeeper) Admit(key.IdentityPublic, []byte) (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return time.Time{}, &frame.Refusal{Kind: frame.Revoked}
	}
	return time.Now().Add(time.Hour), nil
}

func (g *gatekeeper) Follow(ctx context.Context, changed func()) error {
	select {
	case <-ctx.Done():
	case <-g.revoke:
		g.mu.Lock()
		g.shut = true
		g.mu.Unlock()
		changed()
		<-ctx.Done()
	}
	return nil
}

// node is a client with a new key and papers that nobody signed.
func node(t *testing.T, log *watched) (*client.Client, key.IdentityPublic) {
	t.Helper()
	return nodeWith(t, log, key.NewIdentity(), []byte("papers"))
}

// nodeWith is a client of the relay that logs there; it runs until the test ends.
func nodeWith(t *testing.T, log *watched, id key.IdentityPrivate, shown []byte) (*client.Client, key.IdentityPublic) {
	t.Helper()
	pin, err := key.ParseIdentityPublic(log.find(t, `key=(idpub:\w+)`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{
		Addr: log.find(t, `relay listens" addr=(\S+)`), Pin: pin, Identity: id,
		Papers: func() []byte { return shown }, Receive: func(key.NodeID, []byte) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	relaytest.Run(t, c)
	return c, pin
}

// nobodyThere is a join string of a network whose coordinator does not answer.
func nobodyThere(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return papers.JoinString{
		Network:      key.NetworkID{1},
		Coordinators: []leaf.Coordinator{{Addr: ln.Addr().String(), Pin: key.NewIdentity().Public()}},
	}.String()
}

func TestServeRefusesUntilItKnowsItsNetwork(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &watched{grown: make(chan struct{}, 1)}
	code := make(chan int, 1)
	dir := t.TempDir()
	go func() {
		code <- command(ctx, []string{"--state", dir, "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--join", nobodyThere(t)}, io.Discard, log)
	}()
	c, pin := node(t, log)
	s := relaytest.WaitFor(t, c, func(s client.State) bool { return s.LastError != nil })
	var r *frame.Refusal
	if !errors.As(s.LastError, &r) || r.Kind != frame.NotReady {
		t.Errorf("got %v, want not ready", s.LastError)
	}
	if out, _, _ := printID(t, dir); out != pin.String()+"\n" {
		t.Errorf("id prints %q, serve has %v", out, pin)
	}
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("exit code %d, want 0", c)
	}
}

func TestRunFollowsItsAdmitter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &watched{grown: make(chan struct{}, 1)}
	g := &gatekeeper{revoke: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, Config{State: t.TempDir(), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0"}, g, slog.New(slog.NewTextHandler(log, nil)))
	}()
	c, _ := node(t, log)
	relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Connected })
	resp, err := http.Get(log.find(t, `url=(\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Contains(body, []byte("\nwrit_relay_clients 1\n")) {
		t.Errorf("metrics: %v, want writ_relay_clients 1 in %s", err, body)
	}
	close(g.revoke)
	s := relaytest.WaitFor(t, c, func(s client.State) bool { return s.Phase == client.Waiting })
	var r *frame.Refusal
	if !errors.As(s.LastError, &r) || r.Kind != frame.Revoked {
		t.Errorf("got %v, want revoked", s.LastError)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestWhatCannotBeServed(t *testing.T) {
	taken, join := relaytest.New(t), nobodyThere(t)
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	serve := []string{"--state", t.TempDir(), "--listen", "127.0.0.1:0"}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"port taken", []string{"--state", t.TempDir(), "--listen", taken.Addr()}, "address already in use"},
		{"metrics port taken", []string{"--state", t.TempDir(), "--listen", "127.0.0.1:0", "--stun", "none", "--metrics", taken.Addr()}, "address already in use"},
		{"STUN port taken", append(serve, "--stun", udp.LocalAddr().String()), "address already in use; give another address, or --stun none"},
		{"second STUN port taken", append(serve, "--stun", "127.0.0.1:0", "--stun", udp.LocalAddr().String()), "address already in use; give another"},
		{"STUN at a name", append(serve, "--stun", "localhost:3478"), "is no IP address"},
		{"STUN without a port", append(serve, "--stun", "127.0.0.1"), "want IP:PORT, :PORT or, alone, none"},
		{"STUN at a named port", append(serve, "--stun", ":stun"), "is no number up to 65535"},
		{"STUN nowhere and somewhere", append(serve, "--stun", "none", "--stun", ":0"), "want IP:PORT, :PORT or, alone, none"},
		{"STUN at nothing", append(serve, "--stun", ""), "want IP:PORT, :PORT or, alone, none"},
		{"no state directory", []string{"--state", "/dev/null/x", "--listen", "127.0.0.1:0"}, "/dev/null"},
	} {
		var stderr bytes.Buffer
		if code := command(t.Context(), append(slices.Clone(c.args), "--join", join), io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: exit code %d, %q; want 2 and %q", c.name, code, stderr.String(), c.want)
		}
	}
}
