package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/examples"
	"github.com/writmesh/writ/sync/apply"
)

// A node of the demo.
type actor struct {
	name  string
	who   string
	args  []string // of agent up, beyond the usual
	proc  *process
	api   *localapi.Client
	proxy string // known once the agent runs
}

// A story is the demo's network and how to tell it.
type story struct {
	*stage
	repo     *repository
	erin     *person // administrator
	dave     *person // engineer
	policy   trust.SigningKey
	admit    trust.SigningKey
	root     *trust.Root
	rootDoc  []byte
	joinText string

	coordinator string // address
	pin         key.IdentityPublic
	relay       string
	webhook     string
	secret      []byte

	coordinatorProc *process
	sync            *apply.Client
	nodes           []*actor
	alice, bob      *actor
	ledger1         *actor
	loot            loot // of the revision in which Bob has access
}

// newStory founds the network: keys, root document, policy repository.
func newStory(ctx context.Context, s *stage) (*story, error) {
	st := &story{stage: s, secret: []byte("demo-webhook-secret")}
	var err error
	if st.erin, err = newPerson("Erin", "erin@acme.example"); err != nil {
		return nil, err
	}
	if st.dave, err = newPerson("Dave", "dave@acme.example"); err != nil {
		return nil, err
	}
	if err := st.foundTrust(); err != nil {
		return nil, err
	}
	for _, p := range []*string{&st.coordinator, &st.relay, &st.webhook} {
		if *p, err = port(); err != nil {
			return nil, err
		}
	}
	pin, err := s.must(ctx, "coordinator", "id", "--state", s.path("coordinator"))
	if err != nil {
		return nil, err
	}
	if st.pin, err = key.ParseIdentityPublic(pin); err != nil {
		return nil, err
	}
	return st, st.foundPolicy(ctx)
}

// foundTrust makes the keys and the root document.
func (st *story) foundTrust() error {
	var rootKey trust.SigningKey
	for _, k := range []struct {
		name string
		into *trust.SigningKey
	}{{"acme-root-1", &rootKey}, {"acme-policy-1", &st.policy}, {"acme-admission-1", &st.admit}} {
		var err error
		if *k.into, err = trust.NewSigningKey(k.name); err != nil {
			return err
		}
		if err := st.write("keys/"+k.name, k.into.Secret()+"\n"); err != nil {
			return err
		}
	}
	seal := key.NewSeal()
	if err := st.write("keys/seal", seal.Secret()+"\n"); err != nil {
		return err
	}
	root, err := trust.NewRoot(trust.Root{
		Version: 1, Epoch: 1, Issued: time.Now(),
		RootThreshold: 1, RootKeys: []trust.VKey{rootKey.Public()},
		PolicyThreshold: 1, PolicyKeys: []trust.VKey{st.policy.Public()},
		AdmissionThreshold: 1, AdmissionKeys: []trust.VKey{st.admit.Public()},
		SealKeys: []key.SealPublic{seal.Public()},
		Signers:  []string{st.erin.signerLine()},
	})
	if err != nil {
		return err
	}
	st.root = root
	if st.rootDoc, err = trust.Sign(root.Text(), rootKey); err != nil {
		return err
	}
	return errors.Join(st.write("root-1.note", string(st.rootDoc)), st.write("webhook-secret", string(st.secret)+"\n"))
}

// foundPolicy makes the policy repository: the example, the trust files, the
// relay, two pinned people's nodes, and an enrolment key for the servers.
func (st *story) foundPolicy(ctx context.Context) error {
	example, err := fs.Sub(examples.Accounting, "accounting")
	if err != nil {
		return err
	}
	if st.repo, err = newRepository(st.path("acme-policy"), example); err != nil {
		return err
	}
	if err := errors.Join(
		st.repo.write("trust/root-1.note", string(st.rootDoc)),
		st.repo.write("trust/allowed_signers", st.erin.signerLine()+"\n"+st.dave.signerLine()+"\n"),
	); err != nil {
		return err
	}
	if _, err := st.repo.commit(st.erin, "Found the network"); err != nil {
		return err
	}
	relay, err := st.must(ctx, "relay", "id", "--state", st.path("relay"))
	if err != nil {
		return err
	}
	if err := st.repo.write("relays.cue", fmt.Sprintf(
		"package network\n\nrelays: local: {addr: %q, key: %q}\n", st.relay, relay)); err != nil {
		return err
	}
	if _, err := st.repo.commit(st.erin, "Add a relay"); err != nil {
		return err
	}
	nodes := "package network\n"
	for _, n := range []string{"alice", "bob"} {
		id, err := st.must(ctx, "agent", "--state", st.path(n), "id")
		if err != nil {
			return err
		}
		nodes += fmt.Sprintf("\nnodes: %s: {key: %q, user: \"%s@acme.example\"}\n", n, id, n)
	}
	fleet := papers.EnrolSecret{Entry: "ledger-fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()}
	if err := st.write("ledger.secret", fleet.Secret()+"\n"); err != nil {
		return err
	}
	nodes += fmt.Sprintf("\nenrolment: \"ledger-fleet\": {\n\tkey: %q\n\ttags: [\"tag:accounting\"]\n\tnames: [\"ledger-*\"]\n}\n", fleet.Key.Public())
	if err := st.repo.write("nodes.cue", nodes); err != nil {
		return err
	}
	_, err = st.repo.commit(st.erin, "Pin Alice's and Bob's nodes, let ledger servers enrol")
	return err
}

// startServers starts coordinator, sync and relay.
func (st *story) startServers(ctx context.Context) (err error) {
	st.coordinatorProc, err = st.start("coordinator", "coordinator", "run", "--state", st.path("coordinator"), "--listen", st.coordinator, "--root", st.path("root-1.note"))
	if err != nil {
		return err
	}
	join := papers.JoinString{Network: st.root.Network, Coordinators: st.leafCoordinators()}
	st.joinText = join.String()
	if _, err = st.start("relay", "relay", "serve", "--state", st.path("relay"), "--listen", st.relay, "--stun", "none", "--join", st.joinText); err != nil {
		return err
	}
	_, err = st.start("sync", "sync", "run", "--state", st.path("sync"), "--repo", st.repo.dir, "--root", st.path("root-1.note"),
		"--policy-key", st.path("keys/acme-policy-1"), "--admission-key", st.path("keys/acme-admission-1"), "--seal-key", st.path("keys/seal"),
		"--coordinator", st.coordinator+"="+st.pin.String(), "--webhook", st.webhook, "--webhook-secret", st.path("webhook-secret"))
	st.sync = apply.DialStatus(st.path("sync"))
	return err
}

// startNodes starts the four agents and the servers behind two of them.
func (st *story) startNodes(ctx context.Context) error {
	st.alice = &actor{name: "alice", who: "alice@acme.example"}
	st.bob = &actor{name: "bob", who: "bob@acme.example"}
	st.ledger1 = &actor{name: "ledger-1", who: "tag:accounting"}
	st.nodes = []*actor{st.alice, st.bob, st.ledger1, {name: "ledger-2", who: "tag:accounting"}}
	for _, n := range st.nodes[2:] {
		addr, err := serveLedger(ctx, n.name)
		if err != nil {
			return err
		}
		n.args = []string{"--secret-file", st.path("ledger.secret"), "--forward", "tcp/80=" + addr}
	}
	for _, n := range st.nodes { // one after the other, so that addresses are in order
		if err := st.up(n); err != nil {
			return err
		}
		if _, err := n.status(ctx, "admitted", func(s *localapi.Status) bool { return s.State == "up" }); err != nil {
			return err
		}
	}
	return nil
}

// up starts an agent.
func (st *story) up(n *actor) (err error) {
	args := append([]string{"--state", st.path(n.name), "up", "--join", st.joinText, "--name", n.name, "--userspace", "--proxy", "127.0.0.1:0"}, n.args...)
	n.proc, err = st.start(n.name, "agent", args...)
	n.api = localapi.Dial(st.path(n.name, localapi.SocketName))
	return err
}

// status waits until an agent's status is as it should be.
func (n *actor) status(ctx context.Context, what string, ok func(*localapi.Status) bool) (*localapi.Status, error) {
	after := int64(-1)
	for {
		s, err := n.api.Status(ctx, after)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s: %s: %w", n.name, what, context.Cause(ctx))
		case err != nil:
			// The socket is not there yet.
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", n.name, what, err)
			}
			continue
		case ok(s):
			n.proxy = s.Proxy
			return s, nil
		}
		after = s.Version
		select {
		case <-n.proc.done:
			return nil, fmt.Errorf("%s's agent ended", n.name)
		default:
		}
	}
}

// pause waits between two looks at what cannot be waited for.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// enforced waits until every node enforces the commit.
func (st *story) enforced(ctx context.Context, commit string, nodes int) (apply.Status, error) {
	after := int64(-1)
	for {
		s, err := st.sync.Status(ctx, after)
		switch {
		case ctx.Err() != nil:
			return s, fmt.Errorf("%s is not enforced: %s: %w", short(commit), s.Convergence, context.Cause(ctx))
		case err != nil:
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return s, err
			}
			continue
		case s.Refused != nil && s.Refused.Commit == commit:
			return s, s.Refused
		case s.Applied == commit && s.Convergence.Enforced == nodes && s.Convergence.Of == nodes:
			return s, nil
		}
		after = s.Version
	}
}

// hook tells sync, as a forge does, that the branch has moved.
func (st *story) hook(ctx context.Context) error {
	body := []byte(`{"ref":"refs/heads/main"}`)
	mac := hmac.New(sha256.New, st.secret)
	mac.Write(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+st.webhook+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("webhook: %s", resp.Status)
	}
	return nil
}

func short(commit string) string { return commit[:min(7, len(commit))] }

// lastOfMonth is the end of this month, or of the next where that is near.
func lastOfMonth(now time.Time) time.Time {
	now = now.UTC()
	end := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Minute)
	if end.Sub(now) < time.Hour {
		end = time.Date(now.Year(), now.Month()+2, 1, 0, 0, 0, 0, time.UTC).Add(-time.Minute)
	}
	return end
}

func join(words []string) string { return strings.Join(words, ", ") }
