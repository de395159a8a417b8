// Package apply takes a commit its whole way: fetched, its signatures verified,
// built, judged, signed, handed over, and its convergence reported. It is sync's
// main loop.
//
//	watch ─► descends from the last applied? ─► signed by a key in force then?
//	  ─► build: model, leaves, tests, difference, guards ─► decide (written to disk)
//	  ─► sign ─► coordinators ─► acknowledgements ─► enforced
//
// A commit that fails anywhere before "decide" changes nothing: the revision in
// force stays, and the reason is in the log, in the status and in the metrics. It
// is looked at again only as part of a later head.
//
// # Who may sign
//
// The commits after the last applied one, merges included, must each be signed by
// a key of trust/allowed_signers as it was in the last applied commit: a commit
// cannot add its own signer. The first commit is judged by the signers that the
// root document names.
//
// # Joining
//
// Join requests come by the coordinators' streams and are decided by package
// admit under the revision in force. Every admission goes to every coordinator.
package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
	"github.com/writmesh/writ/sync/report"
	"github.com/writmesh/writ/sync/verify"
	"github.com/writmesh/writ/sync/watch"
)

// SignersFile is where a policy repository lists who may sign commits.
const SignersFile = "trust/allowed_signers"

// A Config is what an Applier is made of.
type Config struct {
	Dir          string // sync's state directory
	Roots        [][]byte
	Keys         publish.Keys
	Seal         key.SealPrivate
	Watch        watch.Config // Dir is filled in
	Coordinators []leaf.Coordinator
	Log          *slog.Logger
}

// An Applier is a running sync.
type Applier struct {
	cfg          Config
	log          *slog.Logger
	root         *trust.Root
	rootDocs     [][]byte
	watcher      *watch.Follower
	publisher    *publish.Publisher
	admitter     *admit.Admitter
	reporter     *report.Reporter
	coordinators []*link

	// owned by the goroutine of changed
	base *build.Result // of the revision in force

	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{}
}

// A Status is what an operator should know.
type Status struct {
	Version     int64              `json:"version"` // rises with every change worth telling
	Network     key.NetworkID      `json:"network"`
	Head        string             `json:"head,omitempty"` // of the branch, as last fetched
	Applied     string             `json:"applied,omitempty"`
	Seq         int64              `json:"seq,omitempty"`
	Refused     *Refused           `json:"refused,omitempty"` // the head, if it was refused
	Last        *Applied           `json:"last,omitempty"`    // how the newest revision came about
	Convergence report.Convergence `json:"convergence"`
	Nodes       int                `json:"nodes"`
	Log         int64              `json:"log"` // admissions ever signed
	Coordinator []Link             `json:"coordinators"`
	Fetch       string             `json:"fetch,omitempty"` // why fetching fails
}

// A Refused is a commit that was not applied, and why.
type Refused struct {
	Commit string    `json:"commit"`
	At     time.Time `json:"at"`
	Stage  string    `json:"stage"` // "ancestry", "signature", "policy", "tests", "guards"
	Reason string    `json:"reason"`
}

// An Applied is a revision and how long its making took.
type Applied struct {
	Commit     string            `json:"commit"`
	At         time.Time         `json:"at"`
	Signer     string            `json:"signer,omitempty"`
	Took       time.Duration     `json:"took"` // from the fetched head to the signed revision
	Tests      int               `json:"tests"`
	Assertions int               `json:"assertions"`
	Difference *reach.Difference `json:"difference"`
}

// New opens sync's state.
func New(cfg Config) (*Applier, error) {
	a := &Applier{cfg: cfg, log: cfg.Log, rootDocs: cfg.Roots, changed: make(chan struct{})}
	roots, err := chain(cfg.Roots)
	if err != nil {
		return nil, err
	}
	a.root = roots[len(roots)-1]
	if a.publisher, err = publish.Open(cfg.Dir, cfg.Keys, a.root); err != nil {
		return nil, err
	}
	log, err := admit.OpenLog(cfg.Dir, roots)
	if err != nil {
		return nil, err
	}
	a.admitter = &admit.Admitter{Network: a.root.Network, Sign: cfg.Keys.Admission, Seal: cfg.Seal, Log: log}
	a.reporter = report.New(a.root.Network)
	cfg.Watch.Log = cfg.Log
	if a.watcher, err = watch.New(cfg.Watch); err != nil {
		return nil, err
	}
	for _, c := range cfg.Coordinators {
		conn, err := publish.Dial(c, cfg.Keys.Policy)
		if err != nil {
			return nil, err
		}
		a.coordinators = append(a.coordinators, newLink(a, conn))
	}
	if len(a.coordinators) == 0 {
		return nil, errors.New("no coordinator to publish to")
	}
	a.status.Network = a.root.Network
	return a, a.resume()
}

// chain verifies root documents, version 1 first.
func chain(docs [][]byte) ([]*trust.Root, error) {
	if len(docs) == 0 {
		return nil, errors.New("no root document")
	}
	text, err := trust.Text(docs[0])
	if err != nil {
		return nil, err
	}
	first, err := trust.OpenFirstRoot(docs[0], key.NetworkID(key.HashOf([]byte(text))))
	if err != nil {
		return nil, err
	}
	roots := []*trust.Root{first}
	for _, d := range docs[1:] {
		next, err := trust.OpenNextRoot(d, roots[len(roots)-1])
		if err != nil {
			return nil, err
		}
		roots = append(roots, next)
	}
	return roots, nil
}

// resume puts the revision on disk in force.
func (a *Applier) resume() error {
	cur := a.publisher.Current()
	if cur == nil {
		return nil
	}
	s, err := admit.NewStanding(cur.Manifest.Position, cur.Leaves, cur.Revoked, cur.Ended)
	if err != nil {
		return err
	}
	a.admitter.SetStanding(s)
	a.target(cur, cur.Manifest.Issued)
	return nil
}

// target tells the reporter what is to be enforced, and by whom.
func (a *Applier) target(r *publish.Revision, decided time.Time) {
	live, _, n := a.admitter.Inventory(r.Ended)
	a.reporter.Target(r, live, decided)
	a.update(func(s *Status) {
		s.Applied, s.Seq = string(r.Manifest.Commit), r.Manifest.Seq
		s.Nodes, s.Log = len(live), n
	})
}

// Run applies commits and admits nodes until ctx ends.
func (a *Applier) Run(ctx context.Context) error {
	defer a.admitter.Log.Close()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	for _, l := range a.coordinators {
		tasks.Go(func() { l.run(ctx) })
	}
	tasks.Go(func() { a.watchConvergence(ctx) })
	return a.watcher.Run(ctx, a.head)
}

// Wake fetches now: what a webhook does.
func (a *Applier) Wake() { a.watcher.Wake() }

// head takes up a new head of the branch. What is wrong with the commit is not
// an error here; what kept sync from judging it is, and it is tried again.
func (a *Applier) head(ctx context.Context, head string) error {
	a.update(func(s *Status) { s.Head = head })
	began := time.Now()
	cur := a.publisher.Current()
	if cur == nil || string(cur.Manifest.Commit) != head {
		next, err := a.judge(ctx, head, cur)
		var refused *Refused
		switch {
		case errors.As(err, &refused):
			a.refuse(refused)
			return nil
		case err != nil:
			a.log.Error("commit not judged; it is tried again", "commit", head, "err", err)
			return err
		}
		if _, err = a.decide(next, began); err != nil {
			a.log.Error("revision not decided; it is tried again", "commit", head, "err", err)
			return err
		}
	}
	a.update(func(s *Status) { s.Refused = nil })
	return a.handOver(ctx)
}

func (r *Refused) Error() string {
	return fmt.Sprintf("commit %s refused (%s): %s", trust.Commit(r.Commit).Short(), r.Stage, r.Reason)
}

func (a *Applier) refuse(r *Refused) {
	a.log.Error("commit refused; the revision in force stays", "commit", r.Commit, "stage", r.Stage, "reason", r.Reason)
	refusedCommits.WithLabelValues(r.Stage).Inc()
	a.update(func(s *Status) { s.Refused = r })
}

// judged is a commit that may become the next revision.
type judged struct {
	commit string
	signer string
	result *build.Result
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
		if text, is := build.AtFault(err); is {
			return nil, no("policy", "%s", text)
		}
		return nil, err
	}
	inv := a.inventory(cur)
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
	if err != nil {
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

// inventory is the admitted nodes as differences count them.
func (a *Applier) inventory(cur *publish.Revision) *reach.Inventory {
	var ended *trust.Ended
	if cur != nil {
		ended = cur.Ended
	}
	live, _, _ := a.admitter.Inventory(ended)
	return Inventory(live)
}

// Inventory is admissions as package reach counts nodes.
func Inventory(live []*papers.Admission) *reach.Inventory {
	inv := &reach.Inventory{Nodes: []reach.Admitted{}}
	for _, ad := range live {
		n := reach.Admitted{Name: ad.Name, ID: ad.Identity.NodeID(), Tags: ad.Tags}
		if ad.User != nil {
			n.User = ad.User.Email
		}
		inv.Nodes = append(inv.Nodes, n)
	}
	return inv
}

// decide makes the next revision of a judged commit.
func (a *Applier) decide(j *judged, began time.Time) (*publish.Revision, error) {
	r := j.result
	var before *build.Origins
	cur := a.publisher.Current()
	var ended *trust.Ended
	if cur != nil {
		ended = cur.Ended
		if cur.Origins != nil {
			var err error
			if before, err = build.ParseOrigins(cur.Origins); err != nil {
				return nil, err
			}
		}
	}
	origins, err := r.Origins(before).Encode()
	if err != nil {
		return nil, err
	}
	var revoked []key.NodeID
	for _, n := range r.Policy.Revoked {
		revoked = append(revoked, n.Node)
	}
	next, err := admit.NewStanding(trust.Position{}, r.Leaves, revoked, ended)
	if err != nil {
		return nil, err
	}
	var rev *publish.Revision
	err = a.admitter.Succeed(next, func(ending map[key.NodeID]string, head key.Hash) (*admit.Standing, error) {
		rev, err = a.publisher.Decide(publish.Compiled{
			Commit: trust.Commit(j.commit), Source: r.Source, Compiler: compile.Version, Leaves: r.Leaves,
			Revoked: revoked, Origins: origins, Ending: ending, Judged: head,
		}, time.Now())
		if err != nil {
			return nil, err
		}
		return admit.NewStanding(rev.Manifest.Position, rev.Leaves, rev.Revoked, rev.Ended)
	})
	if err != nil {
		return nil, err
	}
	a.base = r
	took := time.Since(began)
	a.log.Info("revision signed", "commit", trust.Commit(j.commit).Short(), "signer", j.signer, "revision", rev.Manifest.Position,
		"gained", len(r.Difference.Gained), "lost", len(r.Difference.Lost), "took", took.Round(time.Millisecond))
	a.update(func(s *Status) {
		s.Last = &Applied{
			Commit: j.commit, At: rev.Manifest.Issued, Signer: j.signer, Took: took,
			Tests: len(r.Tests.Tests), Assertions: r.Tests.Assertions, Difference: r.Difference,
		}
	})
	a.target(rev, time.Now())
	return rev, nil
}

// handOver brings at least one coordinator to the revision in force; the others
// follow by themselves.
func (a *Applier) handOver(ctx context.Context) error {
	results := make(chan error, len(a.coordinators))
	for _, l := range a.coordinators {
		l.kick(results)
	}
	var errs []error
	for range a.coordinators {
		select {
		case err := <-results:
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// update changes the status and tells who waits for it.
func (a *Applier) update(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
	a.status.Version++
	close(a.changed)
	a.changed = make(chan struct{})
}

// Status is the status, and a channel that is closed when it has changed.
func (a *Applier) Status() (Status, <-chan struct{}) {
	c, _ := a.reporter.Convergence()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Convergence = c
	if f := a.watcher.Status(); f.Err != nil {
		s.Fetch = f.Err.Error()
	}
	for _, l := range a.coordinators {
		s.Coordinator = append(s.Coordinator, l.status())
	}
	return s, a.changed
}

// watchConvergence logs how far the revision is enforced, whenever that changes.
func (a *Applier) watchConvergence(ctx context.Context) {
	was := ""
	for {
		c, changed := a.reporter.Convergence()
		observe(c)
		if text := c.String(); text != was && c.Commit != "" {
			was = text
			a.log.Info(text, "took", c.Took.Round(time.Millisecond))
			a.update(func(*Status) {})
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
