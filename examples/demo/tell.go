package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/sync/apply"
)

// The demo's page is 80 columns wide.
const width = 80

// line prints text at an indent, with what took some time at the right edge.
func line(indent int, text string, took ...time.Duration) {
	out := strings.Repeat(" ", indent) + text
	if len(took) > 0 {
		ms := fmt.Sprintf("%d ms", max(1, took[0].Milliseconds()))
		out += strings.Repeat(" ", max(2, width-2-len([]rune(out))-len(ms))) + ms
	}
	fmt.Println(out)
}

func title(n int, text string) { fmt.Printf("\n  %d  %s\n", n, text) }

// quote prints what a command printed, without empty lines. A text that the indent
// makes too long is wrapped anew, with its continuations, which are indented
// deeper than its first line.
func quote(text string) {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	for i := 0; i < len(lines); i++ {
		l, lead := lines[i], indentOf(lines[i])
		if 7+len([]rune(l)) <= width-2 {
			line(7, l)
			continue
		}
		words := strings.Fields(l)
		for i+1 < len(lines) && indentOf(lines[i+1]) > lead {
			i++
			words = append(words, strings.Fields(lines[i])...)
		}
		wrap(7+lead, words[0]+" ", 2, words[1:])
	}
}

func indentOf(l string) int { return len(l) - len(strings.TrimLeft(l, " ")) }

// tell tells the story.
func (st *story) tell(ctx context.Context) error {
	fmt.Println("  Writ: a pull request changes who can reach the accounting servers")
	fmt.Println("  " + strings.Repeat("─", width-4))
	for _, chapter := range []func(context.Context) error{
		st.opening, st.chapterReads, st.chapterForbidden, st.chapterMerged, st.chapterReverted, st.chapterHostile,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (st *story) opening(ctx context.Context) error {
	if err := st.startServers(ctx); err != nil {
		return err
	}
	if err := st.startNodes(ctx); err != nil {
		return err
	}
	head, err := st.repo.git.Head()
	if err != nil {
		return err
	}
	if _, err := st.enforced(ctx, head.Hash().String(), len(st.nodes)); err != nil {
		return err
	}
	fmt.Printf("  %-20s %-31s\n", "policy repository", "examples/accounting, 3 signed commits")
	fmt.Printf("  %-20s %-23s %-13s %s\n", "sync", "following main", "coordinator", st.coordinator)
	fmt.Printf("  %-20s %-23s %-13s %s\n\n", "relay", st.relay, "agents", "4, no privileges")
	fmt.Printf("  %-10s %-24s %-16s %-10s %s\n", "node", "who", "address", "revision", "path")
	for _, n := range st.nodes {
		s, err := n.status(ctx, "up, at the relay", func(s *localapi.Status) bool {
			return s.State == "up" && s.Proxy != "" && len(s.Relays) > 0 && s.Relays[0].State == "connected"
		})
		if err != nil {
			return err
		}
		fmt.Printf("  %-10s %-24s %-16s %-10s %s\n", n.name, join(s.Who), s.Addrs[0], short(s.Commit), "relay "+s.Relays[0].Name)
	}
	return nil
}

const ledger = "http://ledger-1/"

func (st *story) chapterReads(ctx context.Context) error {
	title(1, "Alice reads the ledger; Bob cannot")
	if err := st.reads(ctx, st.alice, ""); err != nil {
		return err
	}
	if err := st.refused(ctx, st.bob); err != nil {
		return err
	}
	out, code, err := st.run(ctx, st.repo.dir, "policy", "why", "bob@acme.example", "tag:accounting", "tcp/80")
	if err == nil && code != 1 {
		err = fmt.Errorf("policy why: exit %d, want 1:\n%s", code, out)
	}
	if err != nil {
		return err
	}
	line(5, "bob   ▸ policy why bob@acme.example tag:accounting tcp/80")
	for l := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
		line(13, strings.TrimSpace(l))
	}
	return nil
}

// reads has a node read the ledger's page.
func (st *story) reads(ctx context.Context, n *actor, note string) error {
	if _, err := n.status(ctx, "knows ledger-1", func(s *localapi.Status) bool { return hasPeer(s, "ledger-1") }); err != nil {
		return err
	}
	a, err := get(ctx, n.proxy, ledger)
	if err == nil && a.text != "200" {
		err = fmt.Errorf("got %s, want 200", a.text)
	}
	if err != nil {
		return fmt.Errorf("%s reads the ledger: %w", n.name, err)
	}
	line(5, fmt.Sprintf("%-5s ▸ GET %-24s %s  %q%s", n.name, ledger, a.text, a.body, note), a.took)
	return nil
}

func hasPeer(s *localapi.Status, name string) bool {
	for _, p := range s.Peers {
		if p.Name == name {
			return true
		}
	}
	return false
}

// refused has a node ask for the ledger's page in vain.
func (st *story) refused(ctx context.Context, n *actor) error {
	a, err := get(ctx, n.proxy, ledger)
	if err == nil && !a.refused {
		err = fmt.Errorf("got %s, want it refused", a.text)
	}
	if err != nil {
		return fmt.Errorf("%s is refused the ledger: %w", n.name, err)
	}
	line(5, fmt.Sprintf("%-5s ▸ GET %-24s %s", n.name, ledger, a.text))
	return nil
}

func (st *story) chapterForbidden(ctx context.Context) error {
	title(2, "A pull request opens the ledger to engineering")
	if err := st.repo.branch("open-ledger"); err != nil {
		return err
	}
	if err := st.repo.write("engineering.cue", `package network

rules: "eng-ledger": {
	from: ["group:engineering"]
	to: ["tag:accounting"]
	allow: ["tcp/80"]
	why: "ENG-77"
}
`); err != nil {
		return err
	}
	if _, err := st.repo.commit(st.dave, "Open the ledger to engineering"); err != nil {
		return err
	}
	line(5, "branch open-ledger: engineering.cue, signed by dave@acme.example")
	out, code, err := st.run(ctx, st.repo.dir, "policy", "test")
	if err == nil && code != 1 {
		err = fmt.Errorf("policy test: exit %d, want 1:\n%s", code, out)
	}
	if err != nil {
		return err
	}
	line(5, "policy test")
	quote(out)
	line(5, "Not merged.")
	return st.repo.main()
}

func (st *story) chapterMerged(ctx context.Context) error {
	title(3, "Another makes Bob a member of accounting until the end of the month")
	if err := st.repo.branch("bob-in-accounting"); err != nil {
		return err
	}
	until := lastOfMonth(time.Now()).Format(time.RFC3339)
	if err := st.repo.edit("groups.cue", `accounting: ["alice@acme.example"]`,
		`accounting: ["alice@acme.example", {member: "bob@acme.example", until: "`+until+`"}]`); err != nil {
		return err
	}
	if _, err := st.repo.commit(st.dave, "Bob helps accounting until the end of the month"); err != nil {
		return err
	}
	inv, err := st.must(ctx, "sync", "inventory", "--state", st.path("sync"))
	if err != nil {
		return err
	}
	if err := st.write("inventory.json", inv); err != nil {
		return err
	}
	for _, c := range []struct {
		args []string
		show string
		code int
	}{
		{[]string{"test"}, "policy test", 0},
		{[]string{"diff", "main..bob-in-accounting", "--inventory", st.path("inventory.json")}, "policy diff main..bob-in-accounting", 1},
	} {
		out, code, err := st.run(ctx, st.repo.dir, "policy", c.args...)
		if err == nil && code != c.code {
			err = fmt.Errorf("%s: exit %d, want %d:\n%s", c.show, code, c.code, out)
		}
		if err != nil {
			return err
		}
		line(5, c.show)
		quote(out)
	}
	merged := time.Now()
	commit, err := st.repo.merge(st.erin, "bob-in-accounting")
	if err != nil {
		return err
	}
	if err := st.applied(ctx, "merged", commit, merged); err != nil {
		return err
	}
	return st.keepManifest(ctx)
}

// applied follows a commit from the webhook to the last node.
func (st *story) applied(ctx context.Context, verb, commit string, began time.Time) error {
	if err := st.hook(ctx); err != nil {
		return err
	}
	s, err := st.enforced(ctx, commit, len(st.nodes))
	if err != nil {
		return err
	}
	took := time.Since(began)
	last := s.Last
	if last == nil || last.Commit != commit {
		return errors.New("sync does not say how the revision came about")
	}
	line(5, fmt.Sprintf("%s as %s ─ sync: verified, built, tested, signed", verb, short(commit)), last.Took)
	line(5, enforcedText(s), took)
	return nil
}

func enforcedText(s apply.Status) string {
	return fmt.Sprintf("enforced on %d of %d nodes", s.Convergence.Enforced, s.Convergence.Of)
}

// chapterReverted has Bob open a connection that stays, and the revert cut it.
func (st *story) chapterReverted(ctx context.Context) error {
	if err := st.reads(ctx, st.bob, ", and"); err != nil {
		return err
	}
	stream, err := open(ctx, st.bob.proxy, ledger+"stream")
	if err != nil {
		return fmt.Errorf("bob opens a connection that stays: %w", err)
	}
	line(5, "bob   ▸ GET "+ledger+"stream   200  stays open")
	title(4, "Reverted")
	if err := st.repo.edit("groups.cue", `, {member: "bob@acme.example", until: "`+lastOfMonth(time.Now()).Format(time.RFC3339)+`"}`, ""); err != nil {
		return err
	}
	began := time.Now()
	commit, err := st.repo.commit(st.erin, "Revert: Bob helps accounting")
	if err != nil {
		return err
	}
	if err := st.applied(ctx, "reverted", commit, began); err != nil {
		return err
	}
	at, err := stream.wait(ctx)
	if err != nil {
		return err
	}
	line(5, "bob   ▸ open connection cut, counted from the revert", at.Sub(began))
	return st.refused(ctx, st.bob)
}
