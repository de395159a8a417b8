package apply

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

// refusedBy is the metric's count of heads that a stage refused.
func refusedBy(t *testing.T, stage string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := Metrics(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "writ_sync_refused_commits_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == stage {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// A refusal is a head that must not be applied.
type refusal struct {
	name   string
	stage  string
	reason []string // words of it
	make   func(b *bench, applied string) (head string)
}

// refusals tries each on top of what is applied, and a good commit after it.
func (b *bench) refusals(t *testing.T, r *running, applied string, good map[string]string, all []refusal) {
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			b.t, r.t = t, t
			_, before := b.manifest(b.coord)
			count, from := refusedBy(t, c.stage), len(b.log.to.String())
			head := c.make(b, applied)
			got := r.refuses(head)
			if got.Stage != c.stage {
				t.Errorf("refused by %q, want %q", got.Stage, c.stage)
			}
			for _, w := range c.reason {
				if !strings.Contains(got.Reason, w) {
					t.Errorf("reason %q, want %q in it", got.Reason, w)
				}
			}
			if _, after := b.manifest(b.coord); !bytes.Equal(before, after) {
				t.Errorf("the coordinator has\n%s\nwant what it had\n%s", after, before)
			}
			b.log.to.line(t, from, "commit refused", head, "stage="+c.stage)
			if n := refusedBy(t, c.stage); n != count+1 {
				t.Errorf("the metric counts %v, want %v", n, count+1)
			}
			if s, _ := r.Status(); s.OK() || s.Applied != applied || s.Head != head {
				t.Errorf("status says OK %v, head %s, applied %s; want false, %s, %s", s.OK(), s.Head, s.Applied, head, applied)
			}
			b.repo.SetBranch("main", applied)
			applied = b.commit(good)
			r.applies(applied)
			if m, _ := b.manifest(b.coord); string(m.Commit) != applied {
				t.Errorf("then the coordinator has commit %s, want %s", m.Commit, applied)
			}
		})
	}
}

// Commits must be signed by somebody whom the last applied commit names, every
// one of them, and come after it.
func TestSignaturesAndAncestry(t *testing.T) {
	b := newBench(t)
	stranger := b.commitAs("mallory", sourcetest.Commit{}, map[string]string{SignersFile: strings.Join(signers(t, "mallory"), "\n")})
	r := b.run()
	if got := r.refuses(stranger); got.Stage != "signature" || !strings.Contains(got.Reason, "is not in root document") {
		t.Errorf("first commit of a stranger: got %v, want a refusal that names the root document", got)
	}
	if n := newest(t, b.coord); len(n.GetManifest()) != 0 {
		t.Fatalf("the coordinator has\n%s\nwant nothing", n.GetManifest())
	}
	b.repo.DeleteBranch("main")
	first := b.commit(nil)
	s := r.applies(first)
	if s.Last.Signer != "alice@acme.example" || s.Last.Tests != 1 || s.Last.Assertions != 2 {
		t.Errorf("signed by %q, %d tests, %d assertions; want alice@acme.example, 1, 2", s.Last.Signer, s.Last.Tests, s.Last.Assertions)
	}
	both := map[string]string{SignersFile: strings.Join(signers(t, "alice", "bob"), "\n")}
	b.refusals(t, r, first, nil, []refusal{
		{"unsigned", "signature", []string{"not signed"}, func(b *bench, _ string) string {
			return b.commitAs("", sourcetest.Commit{}, nil)
		}},
		{"unsigned under a signed head", "signature", []string{"not signed"}, func(b *bench, _ string) string {
			b.commitAs("", sourcetest.Commit{}, nil)
			return b.commit(nil)
		}},
		{"signed by a stranger", "signature", []string{"is not in trust/allowed_signers"}, func(b *bench, _ string) string {
			return b.commitAs("mallory", sourcetest.Commit{}, nil)
		}},
		{"a signer who adds himself", "signature", []string{"is not in trust/allowed_signers"}, func(b *bench, _ string) string {
			return b.commitAs("bob", sourcetest.Commit{}, both)
		}},
		{"a signer added and used in one push", "signature", []string{"is not in trust/allowed_signers"}, func(b *bench, _ string) string {
			b.commit(both)
			return b.commitAs("bob", sourcetest.Commit{}, both)
		}},
		{"an unsigned merge", "signature", []string{"not signed"}, func(b *bench, applied string) string {
			side := b.commitAs("alice", sourcetest.Commit{Branch: "-", Parents: []string{applied}}, nil)
			return b.commitAs("", sourcetest.Commit{Parents: []string{applied, side}}, nil)
		}},
		{"a signed merge of an unsigned side", "signature", []string{"not signed"}, func(b *bench, applied string) string {
			side := b.commitAs("", sourcetest.Commit{Branch: "-", Parents: []string{applied}}, nil)
			return b.commitAs("alice", sourcetest.Commit{Parents: []string{applied, side}}, nil)
		}},
		{"history rewritten", "ancestry", []string{"does not descend from"}, func(b *bench, _ string) string {
			return b.commitAs("alice", sourcetest.Commit{Parents: []string{}}, nil)
		}},
		{"back to an older commit", "ancestry", []string{"does not descend from"}, func(b *bench, _ string) string {
			b.repo.SetBranch("main", first)
			return first
		}},
	})
}

// A signer signs from the commit after the one that adds him, until the one that
// removes him.
func TestSignersComeAndGo(t *testing.T) {
	b := newBench(t)
	both := map[string]string{SignersFile: strings.Join(signers(t, "alice", "bob"), "\n")}
	only := map[string]string{SignersFile: strings.Join(signers(t, "bob"), "\n")}
	r := b.run()
	r.applies(b.commit(both))
	// A branch of Bob's, merged by Alice.
	main := b.repo.Head("main")
	side := b.commitAs("bob", sourcetest.Commit{Branch: "-", Parents: []string{main}}, both)
	r.applies(b.commitAs("alice", sourcetest.Commit{Parents: []string{main, side}}, both))
	removed := b.commitAs("bob", sourcetest.Commit{}, only)
	if s := r.applies(removed); s.Last.Signer != "bob@acme.example" {
		t.Errorf("signed by %q, want bob@acme.example", s.Last.Signer)
	}
	head := b.commitAs("alice", sourcetest.Commit{}, only)
	if got := r.refuses(head); got.Stage != "signature" || !strings.Contains(got.Reason, "is not in trust/allowed_signers") {
		t.Errorf("a signer who was removed: got %v", got)
	}
	b.repo.SetBranch("main", removed)
	r.applies(b.commitAs("bob", sourcetest.Commit{}, only))
}

// A policy that is wrong, untested or forbidden stays out, with its places.
func TestPolicyRefused(t *testing.T) {
	b := newBench(t)
	guard := `package guard.ports

checked := count(input.network.rules)

deny contains {"msg": msg, "place": rule.place} if {
	some rule in input.network.rules
	some allow in rule.allow
	allow.text == "*"
	msg := sprintf("rule %q opens every port", [rule.name])
}

require_approval contains {"team": "group:it", "reason": "it is the whole network"} if {
	some rule in input.network.rules
	some from in rule.from
	from.selector == "*"
}
`
	good := map[string]string{"guard/ports.rego": guard}
	rule := func(from, allow string) string {
		return "package network\n\nrules: web: {\n\tfrom: [" + from + "]\n\tto: [\"tag:accounting\"]\n\tallow: [" + allow + "]\n}\n"
	}
	first := b.commit(good)
	r := b.run()
	r.applies(first)
	commit := func(extra map[string]string) func(*bench, string) string {
		return func(b *bench, _ string) string {
			files := maps.Clone(good)
			maps.Copy(files, extra)
			return b.commit(files)
		}
	}
	more := map[string]string{"extra.cue": "package network\n\nrules: ping: {\n\tfrom: [\"group:accounting\"]\n\tto: [\"tag:accounting\"]\n\tallow: [\"*\"]\n}\n"}
	b.refusals(t, r, first, good, []refusal{
		{"a field misspelt", "policy", []string{"network.cue:6:1", "grups"}, commit(map[string]string{
			"network.cue": policy(t, nil)["network.cue"] + "grups: it: []\n"})},
		{"no CUE", "policy", []string{"rules.cue:3"}, commit(map[string]string{"rules.cue": "package network\n\nrules: {{\n"})},
		{"a test that fails", "tests", []string{`tests.cue:`, `"accounting stays private"`, "bob@acme.example"}, commit(map[string]string{
			"rules.cue": rule(`"group:accounting", "bob@acme.example"`, `"tcp/443"`)})},
		{"no tests", "tests", []string{"zero tests never count as a pass"}, commit(map[string]string{"tests.cue": ""})},
		{"a guard denies", "guards", []string{"extra.cue:3", "guard ports", `rule "ping" opens every port`}, commit(more)},
		{"a guard that is deleted in the same push", "guards", []string{`rule "ping" opens every port`}, func(b *bench, _ string) string {
			return b.commit(more)
		}},
		{"a guard that is deleted in the commit before", "guards", []string{`rule "ping" opens every port`}, func(b *bench, _ string) string {
			b.commit(nil)
			return b.commit(more)
		}},
		{"a guard that asks for an approval", "guards", []string{"group:it", "it is the whole network", "approvals are not collected"}, commit(map[string]string{
			"extra.cue": "package network\n\nrules: all: {\n\tfrom: [\"*\"]\n\tto: [\"group:accounting\"]\n\tallow: [\"icmp\"]\n}\n"})},
		{"a guard that is no Rego", "policy", []string{"guard/ports.rego:4:1"}, commit(map[string]string{"guard/ports.rego": "package guard.ports\n\ndeny contains {\n"})},
		{"nobody signs the next", "policy", []string{"trust/allowed_signers: it is missing"}, commit(map[string]string{SignersFile: ""})},
		{"nobody signs the next, in words", "policy", []string{"trust/allowed_signers: it names nobody"}, commit(map[string]string{SignersFile: "# later\n"})},
		{"a list of signers that cannot be read", "policy", []string{"trust/allowed_signers:1: "}, commit(map[string]string{SignersFile: "alice@acme.example\n"})},
	})
}
