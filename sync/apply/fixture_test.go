package apply

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source/sourcetest"
	"github.com/writmesh/writ/sync/publish"
	"github.com/writmesh/writ/sync/verify"
	"github.com/writmesh/writ/sync/watch"
)

func TestMain(m *testing.M) {
	build.Child()
	os.Exit(m.Run())
}

// timeout is how long a test waits for what must come: long, for a machine that
// does ten other things under the race detector.
const timeout = 30 * time.Second

// person is somebody with a signing key, the same for the same name.
func person(t testing.TB, name string) *verify.Key {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	k, err := verify.NewKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signers are lines of trust/allowed_signers.
func signers(t testing.TB, names ...string) (out []string) {
	for _, n := range names {
		out = append(out, fmt.Sprintf("%s@acme.example namespaces=\"git\" %s", n, person(t, n).Public()))
	}
	return out
}

// found makes the keys of a network whose first commit Alice signs.
func found(t testing.TB) *netmaptest.World {
	t.Helper()
	w := &netmaptest.World{Now: time.Now().UTC().Truncate(time.Second), Seal: key.NewSeal()}
	for name, into := range map[string]*trust.SigningKey{"root-1": &w.RootKey, "policy-1": &w.PolicyKey, "admission-1": &w.AdmissionKey} {
		k, err := trust.NewSigningKey(name)
		if err != nil {
			t.Fatal(err)
		}
		*into = k
	}
	addRoot(t, w, 1)
	return w
}

// addRoot signs the next root document, of that epoch.
func addRoot(t testing.TB, w *netmaptest.World, epoch int64) {
	t.Helper()
	r := trust.Root{
		Version: int64(len(w.Roots) + 1), Epoch: epoch, Issued: w.Now, Network: w.Network,
		RootThreshold: 1, RootKeys: []trust.VKey{w.RootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{w.PolicyKey.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{w.AdmissionKey.Public()},
		SealKeys: []key.SealPublic{w.Seal.Public()}, Signers: signers(t, "alice"),
	}
	if w.Root != nil {
		r.Prev = w.Root.Hash()
	}
	root, err := trust.NewRoot(r)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := trust.Sign(root.Text(), w.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	w.Root, w.Network, w.Roots = root, root.Network, append(w.Roots, doc)
}

// policy is a small policy repository; extra files replace those of its name, and
// empty ones take them away.
func policy(t testing.TB, extra map[string]string) map[string]string {
	files := map[string]string{
		"network.cue": `package network

network: {name: "acme", domain: "acme.mesh", prefix4: "100.64.0.0/10"}
groups: accounting: ["alice@acme.example"]
tags: accounting: owners: ["group:accounting"]
`,
		"rules.cue": `package network

rules: web: {
	from: ["group:accounting"]
	to: ["tag:accounting"]
	allow: ["tcp/443"]
}
`,
		"tests.cue": `package network

tests: "accounting stays private": {
	allow: [{from: "alice@acme.example", to: "tag:accounting", on: ["tcp/443"]}]
	only: [{from: "group:accounting", to: "tag:accounting", on: ["tcp/443"]}]
}
`,
		SignersFile: strings.Join(signers(t, "alice"), "\n") + "\n",
	}
	maps.Copy(files, extra)
	maps.DeleteFunc(files, func(_, content string) bool { return content == "" })
	return files
}

// A bench is a network without its sync: keys, repository, coordinator.
type bench struct {
	t     testing.TB
	world *netmaptest.World
	repo  *sourcetest.Repo
	coord *coordtest.Coordinator
	dir   string // sync's
	log   *logged
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w := found(t)
	return &bench{t: t, world: w, repo: sourcetest.New(t), coord: coordtest.Start(t, w), dir: t.TempDir(), log: newLogged(t)}
}

// commit commits the policy with these changes to main, signed by Alice.
func (b *bench) commit(extra map[string]string) string {
	b.t.Helper()
	return b.commitAs("alice", sourcetest.Commit{}, extra)
}

// commitAs commits as somebody; nobody's name makes an unsigned commit.
func (b *bench) commitAs(who string, c sourcetest.Commit, extra map[string]string) string {
	b.t.Helper()
	if c.Files = policy(b.t, extra); who != "" {
		c.Sign = person(b.t, who).SignCommit
	}
	return b.repo.Commit(c)
}

func (b *bench) config(coordinators ...leaf.Coordinator) Config {
	if coordinators == nil {
		coordinators = []leaf.Coordinator{b.coord.Coordinator()}
	}
	return Config{
		Dir: b.dir, Roots: b.world.Roots, Keys: publish.Keys{Policy: b.world.PolicyKey, Admission: b.world.AdmissionKey}, Seal: b.world.Seal,
		Watch:        watch.Config{Remote: b.repo.Dir, Branch: "main", Dir: b.dir + "/git", Interval: time.Hour},
		Coordinators: coordinators, Log: slog.New(b.log),
	}
}

// A running is a sync that runs.
type running struct {
	*Applier
	t    testing.TB
	stop func()
}

// run starts sync. It fetches when it starts and when it is woken.
func (b *bench) run(coordinators ...leaf.Coordinator) *running {
	b.t.Helper()
	a, err := New(b.config(coordinators...))
	if err != nil {
		b.t.Fatal(err)
	}
	return start(b.t, a)
}

func start(t testing.TB, a *Applier) *running {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); ctx.Err() == nil {
			t.Errorf("sync ended: %v", err)
		}
	}()
	r := &running{a, t, func() { cancel(); <-done }}
	t.Cleanup(r.stop)
	return r
}

// wait waits until the status is as it should be.
func (r *running) wait(what string, ok func(*Status) bool) Status {
	r.t.Helper()
	limit := time.After(timeout)
	for {
		s, changed := r.Status()
		if ok(&s) {
			return s
		}
		select {
		case <-changed:
		case <-limit:
			r.t.Fatalf("wait until %s: got %+v", what, s)
		}
	}
}

// applies wakes sync and waits until the commit is applied and every coordinator
// has it.
func (r *running) applies(commit string) Status {
	r.t.Helper()
	r.Wake()
	return r.wait("commit "+commit+" is applied", func(s *Status) bool {
		for _, c := range s.Coordinator {
			if c.Seq != s.Seq || c.Error != "" {
				return false
			}
		}
		return s.Applied == commit && s.Head == commit && s.Refused == nil && s.Waiting == ""
	})
}

// refuses wakes sync and waits until the commit is refused.
func (r *running) refuses(commit string) *Refused {
	r.t.Helper()
	r.Wake()
	return r.wait("commit "+commit+" is refused", func(s *Status) bool { return s.Refused != nil && s.Refused.Commit == commit }).Refused
}

// newest is what a coordinator has.
func newest(t testing.TB, c *coordtest.Coordinator) *wire.NewestResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	r, err := c.Publisher().Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg
}

// manifest is the one that a coordinator has, and its note.
func (b *bench) manifest(c *coordtest.Coordinator) (*trust.Manifest, []byte) {
	b.t.Helper()
	note := newest(b.t, c).GetManifest()
	m, err := trust.OpenManifest(note, b.world.Root)
	if err != nil {
		b.t.Fatalf("manifest at the coordinator: %v\n%s", err, note)
	}
	return m, note
}

// logged is sync's log, as text.
type logged struct {
	slog.Handler
	to *lines
}

type lines struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{} // closed when something is written
}

func newLogged(t testing.TB) *logged {
	l := &lines{more: make(chan struct{})}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sync's log:\n%s", l)
		}
	})
	return &logged{slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}), l}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// line waits for a line with all the words, after what was there at from bytes.
func (l *lines) line(t testing.TB, from int, words ...string) string {
	t.Helper()
	limit := time.After(timeout)
	for {
		l.mu.Lock()
		text, more := l.b.String()[from:], l.more
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return line
			}
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("no line with %q in\n%s", words, text)
		}
	}
}

// second starts another coordinator of the network.
func (b *bench) second() *coordtest.Coordinator {
	b.t.Helper()
	return coordtest.Start(b.t, b.world)
}

// contextOf is a context that ends when the test takes too long.
func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx, cancel
}

// socketUp waits until a sync answers. The socket cannot be waited for before it
// is there: it is looked for again and again.
func socketUp(t testing.TB, c *Client) {
	t.Helper()
	ctx, cancel := contextOf(t)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		_, err := c.Status(ctx, -1)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}
