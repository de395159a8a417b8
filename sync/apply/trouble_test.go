package apply

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/source/sourcetest"
)

// Commits that arrive while no coordinator is there are judged all the same. The
// revision that was decided is handed over first, and then the newest head.
func TestCoordinatorDown(t *testing.T) {
	b := newBench(t)
	r := b.run()
	r.applies(b.commit(nil))
	m1, _ := b.manifest(b.coord)
	b.coord.Stop()
	decided := b.commit(nil)
	r.Wake()
	s := r.wait("a commit is decided and waits", func(s *Status) bool { return s.Applied == decided && s.Waiting != "" })
	if !strings.Contains(s.Waiting, b.coord.Addr) || s.OK() {
		t.Errorf("waits for %q and OK is %v, want the coordinator named, and false", s.Waiting, s.OK())
	}
	waiting := b.commit(map[string]string{"other.cue": "package network\n\ngroups: it: [\"erin@acme.example\"]\n"})
	r.Wake()
	s = r.wait("the next one waits too", func(s *Status) bool { return s.Head == waiting && s.Waiting != "" })
	if s.Applied != decided {
		t.Errorf("applied %s, want %s: no coordinator has that one yet", s.Applied, decided)
	}
	bad := b.commit(map[string]string{"other.cue": "package network\n\ngrups: {}\n"})
	if got := r.refuses(bad); got.Stage != "policy" {
		t.Errorf("a bad commit meanwhile: got %v, want it refused", got)
	}
	b.repo.SetBranch("main", waiting)
	r.Wake()
	r.wait("the good one waits again", func(s *Status) bool { return s.Head == waiting && s.Waiting != "" && s.Refused == nil })

	b.coord.Restart()
	// Nobody wakes sync: it notices by itself.
	r.wait("the newest is applied", func(s *Status) bool { return s.Applied == waiting && s.OK() })
	m3, _ := b.manifest(b.coord)
	if string(m3.Commit) != waiting || string(m3.Base) != decided {
		t.Errorf("the coordinator has commit %s after %s, want %s after %s", m3.Commit, m3.Base, waiting, decided)
	}
	if m3.Prev == m1.Hash() || m3.Prev.IsZero() {
		t.Errorf("prev is %s, want the manifest of %s", m3.Prev, decided)
	}
	if line := b.log.to.line(t, 0, "revision signed", "commit="+decided[:7]); !strings.Contains(line, "signer=alice@acme.example") {
		t.Errorf("logged %q", line)
	}
}

// A branch that is gone refuses nothing and changes nothing.
func TestBranchDeleted(t *testing.T) {
	b := newBench(t)
	r := b.run()
	first := b.commit(nil)
	r.applies(first)
	_, before := b.manifest(b.coord)
	from := len(b.log.to.String())
	b.repo.DeleteBranch("main")
	r.Wake()
	b.log.to.line(t, from, "policy repository cannot be fetched", "no such branch")
	s, _ := r.Status()
	if !strings.Contains(s.Fetch, "no such branch") || s.Applied != first || s.Refused != nil || s.OK() {
		t.Errorf("status %+v, want that fetching fails and %s stays", s, first)
	}
	if _, after := b.manifest(b.coord); !bytes.Equal(before, after) {
		t.Errorf("the coordinator has\n%s\nwant what it had\n%s", after, before)
	}
	b.repo.SetBranch("main", first)
	next := b.commit(nil)
	r.applies(next)
	if s, _ := r.Status(); s.Fetch != "" || !s.OK() {
		t.Errorf("status %+v, want everything in order", s)
	}
}

// A revision that cannot be written is not signed, and is decided when it can be.
func TestStateDirectoryFails(t *testing.T) {
	b := newBench(t)
	r := b.run()
	r.applies(b.commit(nil))
	_, before := b.manifest(b.coord)
	state := filepath.Join(b.dir, "revision.state")
	aside := filepath.Join(t.TempDir(), "revision.state")
	// A directory in its place cannot be replaced by a file, not even by root.
	if err := os.Rename(state, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(state, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	next := b.commit(nil)
	r.Wake()
	s := r.wait("the failure shows", func(s *Status) bool { return s.Head == next && s.Waiting != "" })
	if !strings.Contains(s.Waiting, state) || s.Applied == next {
		t.Errorf("waits because %q and applied is %s; want the file named, and the one before", s.Waiting, s.Applied)
	}
	if _, after := b.manifest(b.coord); !bytes.Equal(before, after) {
		t.Errorf("the coordinator has\n%s\nwant what it had\n%s", after, before)
	}
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, state); err != nil {
		t.Fatal(err)
	}
	r.applies(next)
}

// Stopped between deciding and handing over, and started again, sync hands over
// the same bytes.
func TestSameBytesAfterRestart(t *testing.T) {
	b := newBench(t)
	r := b.run()
	r.applies(b.commit(nil))
	b.coord.Stop()
	next := b.commit(nil)
	r.Wake()
	r.wait("it is decided", func(s *Status) bool { return s.Applied == next && s.Waiting != "" })
	manifest, ended, err := r.publisher.Notes(r.publisher.Current())
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	b.coord.Restart()
	r = b.run()
	r.applies(next)
	n := newest(t, b.coord)
	if !bytes.Equal(n.GetManifest(), manifest) || !bytes.Equal(n.GetEnded(), ended) {
		t.Errorf("the coordinator has\n%s%s\nwant\n%s%s", n.GetManifest(), n.GetEnded(), manifest, ended)
	}
	// And once more, with nothing new.
	r.stop()
	r = b.run()
	r.applies(next)
	if again := newest(t, b.coord); !bytes.Equal(again.GetManifest(), manifest) {
		t.Errorf("after another restart the coordinator has\n%s\nwant\n%s", again.GetManifest(), manifest)
	}
}

// A sync that lost its state signs nothing over what it cannot know.
func TestStateLost(t *testing.T) {
	b := newBench(t)
	r := b.run()
	first := b.commit(nil)
	r.applies(first)
	_, before := b.manifest(b.coord)
	r.stop()
	b.dir = t.TempDir()
	r = b.run()
	s := r.wait("it says so", func(s *Status) bool { return strings.Contains(s.Waiting, "its state is lost") })
	if s.Applied != "" || r.publisher.Current() != nil {
		t.Errorf("applied %q, decided %v; want nothing", s.Applied, r.publisher.Current())
	}
	if _, after := b.manifest(b.coord); !bytes.Equal(before, after) {
		t.Errorf("the coordinator has\n%s\nwant what it had\n%s", after, before)
	}
}

// Without its newest revision, or with keys that the root document does not
// name, sync does not start.
func TestRefusesToStart(t *testing.T) {
	b := newBench(t)
	fleet := papers.EnrolSecret{Entry: "fleet", Tags: []string{"accounting"}, Key: key.NewEnrol()}
	r := b.run()
	r.applies(b.commit(nodesFile(nil, fleet)))
	db := b.node("db-1", fleet)
	b.up(db)
	db.admitted()
	r.stop()
	other, err := trust.NewSigningKey("policy-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"another policy key", "the policy key policy-1 is not one that the root document names", func(c *Config) { c.Keys.Policy = other }},
		{"another admission key", "the admission key policy-1 is not one", func(c *Config) { c.Keys.Admission = other }},
		{"another seal key", "is not one that the root document names", func(c *Config) { c.Seal = key.NewSeal() }},
		{"no root", "no root document", func(c *Config) { c.Roots = nil }},
		{"a root that is damaged", "malformed note", func(c *Config) { c.Roots = [][]byte{[]byte("root\n")} }},
		{"another network's root", "revision.state: of network", func(c *Config) {
			w := found(t)
			c.Roots, c.Seal, c.Keys.Policy, c.Keys.Admission = w.Roots, w.Seal, w.PolicyKey, w.AdmissionKey
		}},
		{"no coordinator", "no coordinator", func(c *Config) { c.Coordinators = nil }},
		{"no repository", "follow remote", func(c *Config) { c.Watch.Remote = "" }},
		{"no revision", "the revision that was in force is gone", func(c *Config) {
			for _, name := range []string{"revision.state", "revision.state.prev"} {
				if err := os.Remove(filepath.Join(c.Dir, name)); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		}},
		{"a damaged admission log", "admission log", func(c *Config) {
			if err := os.WriteFile(filepath.Join(c.Dir, "admissions.log"), []byte("writ-admission 3 x\nabc"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := b.config()
			cfg.Dir = t.TempDir()
			if err := os.CopyFS(cfg.Dir, os.DirFS(b.dir)); err != nil {
				t.Fatal(err)
			}
			c.change(&cfg)
			if a, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", a, err, c.want)
			}
		})
	}
}

// A new root document with another epoch asks for a new revision of the commit in
// force; one of the same epoch is handed on.
func TestNewRoot(t *testing.T) {
	b := newBench(t)
	first := b.commit(nil)
	r := b.run()
	r.applies(first)
	r.stop()
	_, before := b.manifest(b.coord)
	addRoot(t, b.world, 1)
	r = b.run()
	r.wait("the coordinator has the new root document", func(s *Status) bool { return s.OK() && newest(t, b.coord).GetRootVersion() == 2 })
	if note := newest(t, b.coord).GetManifest(); !bytes.Equal(note, before) {
		t.Errorf("a root document of the same epoch made\n%s\nwant what was there\n%s", note, before)
	}
	r.stop()
	addRoot(t, b.world, 2)
	r = b.run()
	r.wait("there is a revision of the new epoch", func(s *Status) bool {
		return s.OK() && r.publisher.Current().Manifest.Epoch == 2
	})
	m, _ := b.manifest(b.coord)
	if m.Epoch != 2 || string(m.Commit) != first || m.Root != b.world.Root.Hash() {
		t.Errorf("the coordinator has epoch %d of commit %s under root %s; want 2, %s, %s", m.Epoch, m.Commit, m.Root, first, b.world.Root.Hash())
	}
	r.applies(b.commit(nil))
}

// Without a webhook the branch is polled.
func TestPolls(t *testing.T) {
	b := newBench(t)
	cfg := b.config()
	cfg.Watch.Interval = 10 * time.Millisecond
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first := b.commit(nil)
	r := start(t, a)
	r.wait("the first commit is applied", func(s *Status) bool { return s.Applied == first })
	second := b.commitAs("alice", sourcetest.Commit{}, nil)
	r.wait("the second is applied", func(s *Status) bool { return s.Applied == second && s.OK() })
}
