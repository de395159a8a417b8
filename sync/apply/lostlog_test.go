package apply

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/sync/admit"
)

// A sync that lost its admission log would lease addresses again that nodes have:
// it admits nobody, whether its revision tells or only the coordinator does.
func TestLostAdmissionLog(t *testing.T) {
	b := newBench(t)
	alice, bob := b.node("alice", papers.EnrolSecret{}), b.node("bob", papers.EnrolSecret{})
	pins := map[string]*node{`user: "alice@acme.example"`: alice, `user: "bob@acme.example"`: bob}
	r := b.run()
	b.up(alice)
	commit := b.commit(nodesFile(pins, papers.EnrolSecret{}))
	r.enforced(commit, 1)
	r.stop()
	lose := func() {
		for _, name := range []string{"admissions.log", "admissions.head", "admissions.head.prev"} {
			if err := os.Remove(filepath.Join(b.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}

	// The revision was judged before anybody was admitted: only the coordinator
	// knows of Alice.
	lose()
	r = b.run()
	b.up(bob)
	s := r.wait("it says that the log is lost", func(s *Status) bool {
		return len(s.Coordinator) == 1 && strings.Contains(s.Coordinator[0].Error, "has lost entries")
	})
	if s.Log != 0 || newest(t, b.coord).GetLog() != 1 {
		t.Errorf("%d admissions in the log, %d at the coordinator; want 0 and Alice's", s.Log, newest(t, b.coord).GetLog())
	}
	r.stop()

	// A revision that was judged with admissions names the last of them.
	b = newBench(t)
	alice = b.node("alice", papers.EnrolSecret{})
	pins = map[string]*node{`user: "alice@acme.example"`: alice}
	r = b.run()
	b.up(alice)
	r.enforced(b.commit(nodesFile(pins, papers.EnrolSecret{})), 1)
	more := nodesFile(pins, papers.EnrolSecret{})
	more["more.cue"] = "package network\n\ngroups: more: [\"carol@acme.example\"]\n"
	r.enforced(b.commit(more), 1)
	r.stop()
	lose()
	if _, err := New(b.config(b.coord.Coordinator())); !errors.Is(err, admit.ErrLost) {
		t.Errorf("started with a lost log: got %v, want %v", err, admit.ErrLost)
	}
}
