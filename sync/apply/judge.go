package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/sync/publish"
	"github.com/writmesh/writ/sync/verify"
	"github.com/writmesh/writ/sync/watch"
)

// judged is a commit that may become the next revision.
type judged struct {
	commit string
	signer string // empty for the commit in force, judged for a new epoch
	result *build.Result
	log    key.Hash // head of the admission log that was counted
}

// judge verifies and builds a head. A *Refused error says why it may not become
// a revision.
func (a *Applier) judge(ctx context.Context, head string, cur *publish.Revision) (*judged, error) {
	no := func(stage, format string, args ...any) error {
		return &Refused{Commit: head, At: time.Now().UTC(), Stage: stage, Reason: fmt.Sprintf(format, args...)}
	}
	j := &judged{commit: head}
	if cur != nil && (a.base == nil || a.base.Tree.Commit.Hash != string(cur.Manifest.Commit)) {
		if err := a.loadBase(ctx, string(cur.Manifest.Commit)); err != nil {
			return nil, err
		}
	}
	var err error
	if j.signer, err = a.signatures(ctx, head, cur); err != nil {
		var refusal *verify.Refusal
		switch {
		case errors.Is(err, watch.ErrNotDescendant):
			return nil, no("ancestry", "it does not descend from %s, which is applied: history was rewritten", cur.Manifest.Commit.Short())
		case errors.As(err, &refusal):
			return nil, no("signature", "%v", refusal)
		case errors.Is(err, errSigners):
			return nil, no("signature", "%v", err)
		}
		return nil, err
	}
	tree, err := a.watcher.Tree(head)
	if err != nil {
		if text, is := build.AtFault(err); is && ctx.Err() == nil {
			return nil, no("policy", "%s", text)
		}
		return nil, err
	}
	if err := checkSigners(tree); err != nil {
		return nil, no("policy", "%v", err)
	}
	var inv *reach.Inventory
	inv, j.log = a.inventory(cur)
	j.result, err = build.Build(ctx, build.Request{Tree: tree, Base: a.base, Inventory: inv})
	if err != nil {
		if text, is := build.AtFault(err); is && ctx.Err() == nil {
			return nil, no("policy", "%s", text)
		}
		return nil, err
	}
	r := j.result
	if !r.Tests.OK() {
		return nil, no("tests", "%s", failures(r))
	}
	if failed := r.FailedGuardTests(); len(failed) > 0 {
		var out []string
		for _, t := range failed {
			out = append(out, fmt.Sprintf("%s: %s: %s", t.Place, t.Name, t.Failure))
		}
		return nil, no("tests", "%s", strings.Join(out, "\n"))
	}
	if denied := r.Denied(); len(denied) > 0 {
		var out []string
		for _, f := range denied {
			out = append(out, fmt.Sprintf("%s: guard %s: %s", f.Place, f.Guard, f.Message))
		}
		return nil, no("guards", "%s", strings.Join(out, "\n"))
	}
	if len(r.Approvals) > 0 {
		var out []string
		for _, p := range r.Approvals {
			out = append(out, fmt.Sprintf("%s: guard %s asks for the approval of %s: %s", p.Place, p.Guard, p.Team, p.Reason))
		}
		return nil, no("guards", "%s\napprovals are not collected by this version", strings.Join(out, "\n"))
	}
	return j, nil
}

func failures(r *build.Result) string {
	if len(r.Tests.Tests) == 0 {
		return "the policy has no tests; zero tests never count as a pass"
	}
	var out []string
	for _, t := range r.Tests.Tests {
		for _, f := range t.Failures {
			out = append(out, fmt.Sprintf("%s: %q: %s", f.Place, t.Name, f.Text))
		}
	}
	return strings.Join(out, "\n")
}

// loadBase builds the applied commit again, to compare with and for its guards.
func (a *Applier) loadBase(ctx context.Context, commit string) error {
	tree, err := a.watcher.Tree(commit)
	if err != nil {
		return fmt.Errorf("applied commit %s: %w", trust.Commit(commit).Short(), err)
	}
	if a.base, err = build.Check(ctx, build.Request{Tree: tree}); err != nil {
		return fmt.Errorf("applied commit %s: %w", trust.Commit(commit).Short(), err)
	}
	return nil
}

var errSigners = errors.New("no list of signers")

// signatures checks who signed the commits from the applied one to the head, and
// names the signer of the head.
func (a *Applier) signatures(ctx context.Context, head string, cur *publish.Revision) (string, error) {
	from, list, name := "", []byte(strings.Join(a.root.Signers, "\n")+"\n"), "root document"
	if cur != nil {
		from, name = string(cur.Manifest.Commit), SignersFile
		var err error
		if list, err = fs.ReadFile(a.base.Tree.FS, SignersFile); err != nil {
			return "", fmt.Errorf("%w: %s of the applied commit: %w", errSigners, SignersFile, err)
		}
	}
	signers, err := verify.ParseAllowedSigners(name, list)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errSigners, err)
	}
	commits, err := a.watcher.Commits(ctx, from, head)
	if err != nil || len(commits) == 0 {
		return "", err
	}
	if cur == nil {
		// What was before the first commit applied is vouched for by its signer.
		commits = commits[len(commits)-1:]
	}
	who, err := verify.Range(commits, signers, time.Now())
	if err != nil {
		return "", err
	}
	return who[len(who)-1].Principal, nil
}

// checkSigners makes sure that a commit can follow this one.
func checkSigners(t source.Tree) error {
	text, err := fs.ReadFile(t.FS, SignersFile)
	if err != nil {
		return fmt.Errorf("%s: it is missing, and nobody could sign the next commit", SignersFile)
	}
	list, err := verify.ParseAllowedSigners(SignersFile, text)
	if err != nil {
		return fmt.Errorf("%w: nobody could sign the next commit", err)
	}
	if list.Len() == 0 {
		return fmt.Errorf("%s: it names nobody who could sign the next commit", SignersFile)
	}
	return nil
}

// inventory is the admitted nodes as differences count them, and the head of the
// admission log that they are of.
func (a *Applier) inventory(cur *publish.Revision) (*reach.Inventory, key.Hash) {
	var ended *trust.Ended
	if cur != nil {
		ended = cur.Ended
	}
	live, head, _ := a.admitter.Inventory(ended)
	return Inventory(live), head
}

// Inventory is admissions as package reach counts nodes.
func Inventory(live []*papers.Admission) *reach.Inventory {
	inv := &reach.Inventory{Nodes: []reach.Admitted{}}
	for _, ad := range live {
		n := reach.Admitted{Name: ad.Name, ID: ad.Identity.NodeID(), Tags: ad.Tags, Basis: ad.Basis.String(), Address4: ad.IPv4, Addresses: ad.Addresses()}
		if ad.User != nil {
			n.User = ad.User.Email
		}
		inv.Nodes = append(inv.Nodes, n)
	}
	return inv
}
