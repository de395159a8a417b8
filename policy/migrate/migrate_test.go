package migrate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func entries(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteLeavesAllOrNothing(t *testing.T) {
	r := &Result{Files: []File{{"a.cue", []byte("a")}, {"b.cue", []byte("b")}}}
	parent := t.TempDir()
	dir := filepath.Join(parent, "new", "deep")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"a.cue", "b.cue"}) {
		t.Errorf("a missing directory: got %v", got)
	}
	if got := entries(t, filepath.Join(parent, "new")); !slices.Equal(got, []string{"deep"}) {
		t.Errorf("beside it: got %v, want deep alone", got)
	}
	if err := r.Write(dir); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("again: got %v, want that it is not empty", err)
	}
	repo := filepath.Join(parent, "repo")
	if err := os.MkdirAll(filepath.Join(repo, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	bad := &Result{Files: append(slices.Clone(r.Files), File{"a.cue", []byte("twice")})}
	if err := bad.Write(repo); err == nil {
		t.Error("a file twice: got no error")
	}
	if got := entries(t, repo); !slices.Equal(got, []string{".git"}) {
		t.Errorf("after a failure: got %v, want .git alone", got)
	}
	if err := r.Write(repo); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, repo); !slices.Equal(got, []string{".git", "a.cue", "b.cue"}) {
		t.Errorf("a repository: got %v", got)
	}
}

// With Partial, what is left out never widens access.
func TestPartialNeverWidens(t *testing.T) {
	for _, test := range []struct{ name, src string }{
		{"posture", `{"postures": {"posture:a": ["ip:country == 'DE'"]}, "acls": [{"action": "accept", "src": ["a@b.example"], "dst": ["*:*"], "srcPosture": ["posture:a"]}]}`},
		{"default posture", `{"postures": {"posture:a": ["ip:country == 'DE'"]}, "defaultSrcPosture": ["posture:a"], "acls": [{"action": "accept", "src": ["a@b.example"], "dst": ["*:*"]}]}`},
		{"via", `{"tagOwners": {"tag:r": []}, "grants": [{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["*"], "via": ["tag:r"]}]}`},
		{"source", `{"acls": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["*:*"]}]}`},
		{"ipset", `{"ipsets": {"ipset:a": ["10.0.0.0/8", "remove autogroup:internet"]}, "acls": [{"action": "accept", "src": ["*"], "dst": ["ipset:a:*"]}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Tailscale([]byte(test.src), Options{File: "f"}); err == nil || !strings.Contains(err.Error(), "cannot be carried over") {
				t.Errorf("without Partial: got %v, want that it cannot be carried over", err)
			}
			r, err := Tailscale([]byte(test.src), Options{File: "f", Partial: true})
			if err != nil {
				t.Fatal(err)
			}
			p, _ := loadResult(t, r)
			if len(p.Rules) > 0 {
				t.Errorf("got %d rules, want none:\n%s", len(p.Rules), all(r))
			}
			if len(r.NotCarried) == 0 || !strings.Contains(all(r), "// not carried over: ") {
				t.Errorf("it is not told that something was left out:\n%s", all(r))
			}
		})
	}
}

// An accept test asks for its port, as it does there: that ping is open is no
// answer. One about a rule that is left out goes with it, and is told.
func TestAcceptTestsAskForTheirPort(t *testing.T) {
	const head = `{"tagOwners": {"tag:prod": []}, "groups": {"group:dev": ["al@b.example"]}, "postures": {"posture:a": ["ip:country == 'DE'"]}, "acls": [
		{"action": "accept", "proto": "icmp", "src": ["*"], "dst": ["tag:prod:*"]},
		{"action": "accept", "proto": "udp", "src": ["group:dev"], "dst": ["tag:prod:53"]}`
	for _, test := range []struct {
		name, more, tests string
		want              []string // of tests.cue
		told              int
	}{
		{"only ping", "", `{"src": "al@b.example", "accept": ["tag:prod:443"]}`, []string{`on: ["tcp/443"]`}, 0},
		{"udp", "", `{"src": "al@b.example", "accept": ["tag:prod:53"]}`, []string{`on: ["udp/53"]`}, 0},
		{"said", "", `{"src": "al@b.example", "proto": "sctp", "accept": ["tag:prod:7"]}`, []string{`on: ["sctp/7"]`}, 0},
		{"left out", `, {"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:prod:443"], "srcPosture": ["posture:a"]}`,
			`{"src": "al@b.example", "accept": ["tag:prod:443"]}, {"src": "al@b.example", "deny": ["tag:prod:22"]}`, []string{`on: ["tcp/22", "udp/22"]`}, 1},
		{"none is left", `, {"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:prod:443"], "srcPosture": ["posture:a"]}`,
			`{"src": "al@b.example", "accept": ["tag:prod:443"]}`, []string{`No test is carried over`, `on: ["icmp"]`, `on: ["udp/53", "icmp"]`}, 1},
		{"in part", `, {"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["tag:prod:443"], "srcPosture": ["posture:a"]}`,
			`{"src": "al@b.example", "accept": ["tag:prod:443", "tag:prod:53", "tag:prod:80"], "deny": ["tag:prod:22"]}`,
			[]string{`on: ["udp/53"]`, `on: ["tcp/80"]`, `on: ["tcp/22", "udp/22"]`}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Tailscale([]byte(head+test.more+`], "tests": [`+test.tests+`]}`), Options{File: "f", Partial: true})
			if err != nil {
				t.Fatal(err)
			}
			loadResult(t, r)
			said := ""
			for _, f := range r.Files {
				if f.Name == fileTests {
					said = string(f.Data)
				}
			}
			n := 0
			for _, want := range test.want {
				n += strings.Count(want, "on: [")
			}
			if got := strings.Count(said, "on: ["); got != n {
				t.Errorf("%d assertions, want %d:\n%s", got, n, said)
			}
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("want %s in\n%s", want, said)
				}
			}
			told := 0
			for _, p := range r.NotCarried {
				if strings.Contains(p.Message, "the rule that it is about is not carried over") {
					told++
				}
			}
			if told != test.told || strings.Contains(said, "// not carried over: ") != (told > 0) {
				t.Errorf("%d tests are told as left out, want %d: %v\n%s", told, test.told, r.NotCarried, said)
			}
		})
	}
}

// Comments above a section stand above the file that it becomes, and a name that
// changes in its case only is told, too.
func TestSectionsKeepTheirComments(t *testing.T) {
	r, err := Tailscale([]byte(`{
	// People of the company.
	"groups": {"group:Data-Sci": ["al@b.example"]},
	// Who may do what.
	"acls": [{"action": "accept", "src": ["group:Data-Sci"], "dst": ["*:22"]}],
}`), Options{File: "f"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		fileGroups: {"// People of the company.\npackage network\n", "// Was group:Data-Sci.\n"},
		fileRules:  {"// Who may do what.\npackage network\n"},
	} {
		for _, f := range r.Files {
			for _, w := range want {
				if f.Name == name && strings.Count(all(r), w) != 1 {
					t.Errorf("%s: want %q once in\n%s", name, w, f.Data)
				}
			}
		}
	}
}

// A rule of one side to itself is the same in both directions, and made once.
func TestNetBirdBothDirectionsOnce(t *testing.T) {
	for _, c := range []struct {
		sources, destinations string
		want                  int
	}{
		{`[{"id": "1"}]`, `[{"id": "1"}]`, 1},
		{`[{"id": "1"}, {"id": "2"}]`, `[{"id": "2"}, {"id": "1"}]`, 1},
		{`[{"id": "1"}]`, `[{"id": "2"}]`, 2},
		{`[{"id": "1"}]`, `[{"id": "1"}, {"id": "2"}]`, 2},
	} {
		r, err := NetBird([]byte(`{"groups": [{"id": "1", "name": "dev"}, {"id": "2", "name": "ops"}], "policies": [{"id": "p", "name": "Default", "enabled": true, "rules": [
			{"id": "r", "name": "Default", "enabled": true, "action": "accept", "protocol": "all", "bidirectional": true, "sources": `+c.sources+`, "destinations": `+c.destinations+`}]}]}`), Options{File: "f"})
		if err != nil {
			t.Fatal(err)
		}
		if p, _ := loadResult(t, r); len(p.Rules) != c.want {
			t.Errorf("%s <-> %s: %d rules, want %d:\n%s", c.sources, c.destinations, len(p.Rules), c.want, all(r))
		}
	}
}
