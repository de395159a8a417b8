package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/policy/source/sourcetest"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/apply"
	"github.com/writmesh/writ/sync/publish"
)

// A daemon is a network whose sync runs as a process of its own, with a webhook
// and metrics.
type daemon struct {
	*network
	t     *testing.T
	repo  *sourcetest.Repo
	coord *coordtest.Coordinator
	dir   string // with the keys; sync's state is in dir/s
	n     int    // commits made
}

func newDaemon(t *testing.T) *daemon {
	n := found(t)
	d := &daemon{n, t, sourcetest.New(t), coordtest.Start(t, n.World), t.TempDir(), 0}
	if err := n.write(d.dir); err != nil {
		t.Fatal(err)
	}
	return d
}

// commit commits a policy that differs from the last one.
func (d *daemon) commit() string {
	d.n++
	return d.repo.Commit(sourcetest.Commit{Sign: d.person("alice").SignCommit, Files: map[string]string{
		"network.cue": fmt.Sprintf(`package network

network: {name: "acme", domain: "acme.mesh", prefix4: "100.64.0.0/10"}
groups: accounting: ["alice@acme.example", "user%d@acme.example"]
tags: accounting: owners: ["group:accounting"]
enrolment: fleet: {key: %q, tags: ["tag:accounting"], names: ["db-*"]}
rules: web: {from: ["group:accounting"], to: ["tag:accounting"], allow: ["tcp/443"]}
tests: web: allow: [{from: "alice@acme.example", to: "tag:accounting", on: ["tcp/443"]}]
`, d.n, d.fleet.Key.Public()),
		"trust/allowed_signers": d.signers("alice"),
	}})
}

// A process is a sync that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its log is read

	mu    sync.Mutex // guards the fields below
	log   bytes.Buffer
	addrs map[string]string // what listens -> where
	more  chan struct{}
}

func (d *daemon) start(args ...string) *process {
	d.t.Helper()
	self, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	p := &process{t: d.t, done: make(chan struct{}), addrs: map[string]string{}, more: make(chan struct{})}
	p.cmd = exec.Command(self, append([]string{"run", "--state", "s", "--repo", d.repo.Dir, "--root", "root-1.note",
		"--policy-key", "policy.key", "--admission-key", "admission.key", "--seal-key", "seal.key",
		"--coordinator", d.coord.Addr + "=" + d.coord.Pin.String(), "--poll", "24h",
		"--webhook", "127.0.0.1:0", "--webhook-secret", "hook.secret", "--metrics", "127.0.0.1:0"}, args...)...)
	p.cmd.Dir, p.cmd.Env = d.dir, append(os.Environ(), asSync+"=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.read(out)
		p.cmd.Wait()
	}()
	d.t.Cleanup(p.kill)
	return p
}

// read takes up the log.
func (p *process) read(out io.Reader) {
	for s := bufio.NewScanner(out); s.Scan(); {
		p.mu.Lock()
		p.log.WriteString(s.Text() + "\n")
		if _, addr, ok := strings.Cut(s.Text(), "listens\" addr="); ok {
			what := "metrics"
			if strings.Contains(s.Text(), "webhook") {
				what = "webhook"
			}
			p.addrs[what] = addr
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// addr is where something listens, once it does.
func (p *process) addr(what string) string {
	p.t.Helper()
	limit := time.After(timeout)
	for {
		p.mu.Lock()
		addr, more := p.addrs[what], p.more
		p.mu.Unlock()
		if addr != "" {
			return addr
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("sync ended before %s listens:\n%s", what, p.log.String())
		case <-limit:
			p.t.Fatalf("%s does not listen", what)
		}
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// hook tells sync, as a forge does that knows this secret, that a branch moved.
func (p *process) hook(secret string) (code int) {
	p.t.Helper()
	const body = `{"ref":"refs/heads/main"}`
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequest(http.MethodPost, "http://"+p.addr("webhook")+"/", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// await waits until the status is as it should be.
func (d *daemon) await(what string, ok func(apply.Status) bool) apply.Status {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := awaitStatus(ctx, filepath.Join(d.dir, "s"), ok)
	if err != nil {
		d.t.Fatalf("wait until %s: %v", what, err)
	}
	return s
}

// A webhook with the secret has sync fetch at once; without, it does nothing.
func TestWebhookAndMetrics(t *testing.T) {
	d := newDaemon(t)
	first := d.commit()
	p := d.start()
	d.await("the first commit is applied", func(s apply.Status) bool { return s.Applied == first && s.OK() })
	second := d.commit()
	if code := p.hook("another secret"); code != http.StatusUnauthorized {
		t.Errorf("a webhook with another secret: got %d, want %d", code, http.StatusUnauthorized)
	}
	if code := p.hook(hookSecret); code != http.StatusNoContent {
		t.Errorf("the forge's webhook: got %d, want %d", code, http.StatusNoContent)
	}
	s := d.await("the second commit is applied", func(s apply.Status) bool { return s.Applied == second && s.OK() })
	stranger := d.repo.Commit(sourcetest.Commit{Files: map[string]string{}})
	p.hook(hookSecret)
	d.await("a stranger's commit is refused", func(s apply.Status) bool { return s.Refused != nil && s.Refused.Commit == stranger })
	resp, err := http.Get("http://" + p.addr("metrics") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`writ_sync_refused_commits_total{stage="signature"} 1`,
		fmt.Sprintf("writ_sync_revision_seq %v", float64(s.Seq)),
		`writ_sync_revision_nodes{enforced="no"} 0`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("metrics lack %q:\n%s", want, text)
		}
	}
}

// A seen is what a crash left: the newest revision on sync's disk and the newest
// at the coordinator.
type seen struct {
	disk, coord *trust.Manifest
}

// look reads both, while no sync runs.
func (d *daemon) look() (s seen) {
	d.t.Helper()
	p, err := publish.Open(filepath.Join(d.dir, "s"), publish.Keys{Policy: d.PolicyKey, Admission: d.AdmissionKey}, d.Root)
	if err != nil {
		d.t.Fatalf("what the crash left: %v", err)
	}
	if cur := p.Current(); cur != nil {
		s.disk = cur.Manifest
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	r, err := d.coord.Publisher().Newest(ctx, connect.NewRequest(&wire.NewestRequest{}))
	if err != nil {
		d.t.Fatal(err)
	}
	if note := r.Msg.GetManifest(); len(note) > 0 {
		if s.coord, err = trust.OpenManifest(note, d.Root); err != nil {
			d.t.Fatal(err)
		}
	}
	return s
}

// ask has a new node ask to join, and does not wait.
func (d *daemon) ask(name string) key.NodeID {
	d.t.Helper()
	id := key.NewIdentity()
	msg, err := papers.NewJoin(d.Network, id, name, time.Now(), d.Seal.Public(), d.fleet.Proof(d.Network, id.Public(), name))
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if _, err := d.coord.Agent(id).Join(ctx, connect.NewRequest(&wire.JoinRequest{Join: msg})); err != nil {
		d.t.Fatalf("%s asks to join: %v", name, err)
	}
	return id.Public().NodeID()
}

// pace measures how long sync takes from its start, and from a webhook, until a
// commit is published: crashes are tried within a little more than that.
func pace(t *testing.T) (cold, warm time.Duration) {
	d := newDaemon(t)
	published := func(commit string, since time.Time) time.Duration {
		d.await("a commit is published", func(s apply.Status) bool { return s.Applied == commit && s.OK() })
		return time.Since(since) * 3 / 2
	}
	head, began := d.commit(), time.Now()
	p := d.start()
	published(head, began)
	p.kill()
	head, began = d.commit(), time.Now()
	p = d.start() // as in most rounds, with a revision to build anew and compare with
	cold = published(head, began)
	head, began = d.commit(), time.Now()
	p.hook(hookSecret)
	return cold, published(head, began)
}

// Killed again and again, at any instant, while commits arrive and nodes join,
// sync loses no revision and repeats none, and admits each node once.
func TestKilledAtAnyInstant(t *testing.T) {
	const rounds = 24
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	cold, hot := pace(t)
	d := newDaemon(t)
	state := filepath.Join(d.dir, "s")
	asked := map[key.NodeID]string{}
	byCommit := map[trust.Commit]key.Hash{}
	bySeq := map[int64]key.Hash{}
	known := func(round int, where string, m *trust.Manifest) {
		t.Helper()
		if m == nil {
			return
		}
		if h, ok := byCommit[m.Commit]; ok && h != m.Hash() {
			t.Errorf("round %d, %s: commit %s has the manifests %s and %s", round, where, m.Commit.Short(), h.Short(), m.Hash().Short())
		}
		if h, ok := bySeq[m.Seq]; ok && h != m.Hash() {
			t.Errorf("round %d, %s: seq %d is of the manifests %s and %s", round, where, m.Seq, h.Short(), m.Hash().Short())
		}
		byCommit[m.Commit], bySeq[m.Seq] = m.Hash(), m.Hash()
	}
	var before seen
	decided, handed := 0, 0
	for round := range rounds {
		name := fmt.Sprintf("db-%d", round)
		warm := before.coord != nil && round%2 == 1
		if !warm {
			d.commit()
		}
		asked[d.ask(name)] = name
		p := d.start()
		within := cold // from the start of the process
		if warm {
			d.await("the last commit is published", func(s apply.Status) bool { return s.Seq > 0 && s.Coordinator[0].Seq == s.Seq && s.Head == s.Applied })
			d.commit()
			p.hook(hookSecret)
			within = hot // from the webhook
		}
		<-time.After(time.Duration(rnd.Int64N(int64(within)))) // the crash, not a wait for anything
		p.kill()
		if _, err := os.Stat(state); err != nil {
			continue // killed before it did anything
		}
		now := d.look()
		known(round, "disk", now.disk)
		known(round, "coordinator", now.coord)
		switch {
		case before.disk == nil:
		case now.disk == nil:
			t.Fatalf("round %d: the revision on disk is gone", round)
		case now.disk.Hash() == before.disk.Hash():
		case now.disk.Position.Compare(before.disk.Position) <= 0:
			t.Errorf("round %d: %s after %s", round, now.disk.Position, before.disk.Position)
		default:
			decided++
			// Two were decided at most: of the head at the start, and of the new one.
			if now.disk.Prev != before.disk.Hash() && !warm {
				t.Errorf("round %d: the revision after %s names another as the one before it", round, before.disk.Position)
			}
			if now.coord == nil || now.coord.Position.Compare(before.disk.Position) < 0 {
				t.Errorf("round %d: %s was decided, and the coordinator never got the one before it", round, now.disk.Position)
			}
		}
		if before.coord != nil && now.coord.Position.Compare(before.coord.Position) < 0 {
			t.Errorf("round %d: the coordinator went back from %s to %s", round, before.coord.Position, now.coord.Position)
		}
		if now.coord != nil && (now.disk == nil || now.coord.Position.Compare(now.disk.Position) > 0) {
			t.Errorf("round %d: the coordinator has %s, which is not on sync's disk", round, now.coord.Position)
		}
		if before.coord == nil && now.coord != nil || before.coord != nil && now.coord.Hash() != before.coord.Hash() {
			handed++
		}
		before = now
	}
	t.Logf("%d rounds decided a revision, %d handed one over", decided, handed)
	if before.disk == nil {
		t.Error("no round lived long enough to decide anything")
	}

	head := d.commit()
	p := d.start()
	d.await("the head is applied and every node admitted", func(s apply.Status) bool {
		return s.Applied == head && s.Nodes == len(asked) && s.Coordinator[0].Seq == s.Seq && s.Coordinator[0].Error == ""
	})
	p.kill()
	last := d.look()
	known(rounds, "disk", last.disk)
	if last.coord == nil || last.coord.Hash() != last.disk.Hash() || string(last.coord.Commit) != head {
		t.Errorf("the coordinator has %v, want what is on disk, of commit %s", last.coord, head)
	}
	log, err := admit.OpenLog(state, []*trust.Root{d.Root})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	addresses := map[netip.Addr]bool{}
	for _, e := range log.After(0) {
		ad := e.Admission
		id := ad.Identity.NodeID()
		if asked[id] != ad.Name {
			t.Errorf("admission %d is of %s, which did not ask or was admitted before", ad.Log, ad.Name)
		}
		delete(asked, id)
		if addresses[ad.IPv4] {
			t.Errorf("admission %d gives %s a second time", ad.Log, ad.IPv4)
		}
		addresses[ad.IPv4] = true
	}
	if len(asked) > 0 {
		t.Errorf("never admitted: %v", asked)
	}
}
