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
// is looked at again only as part of a later head. What kept sync from judging a
// commit, or from deciding it, is no fault of the commit: it is tried again.
//
// # In what order
//
// A revision is decided only once a coordinator has the one before it, so that
// none is lost; coordinators that were away meanwhile are given the newest. The
// first is decided only once a coordinator has said that it has none: one that has
// a revision which this sync does not know means that sync lost its state.
//
// The difference and the guards count the nodes that are admitted when the
// revision is decided. Where a node was admitted since they were counted, the
// commit is judged again, up to maxJudged times; the manifest names the head of
// the admission log that was judged.
//
// # Who may sign
//
// The commits after the last applied one, merges included, must each be signed by
// a key of trust/allowed_signers as it was in the last applied commit: a commit
// cannot add its own signer. The first commit is judged by the signers that the
// root document names. A commit whose list names nobody is refused, since no
// commit could follow it.
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
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
	"github.com/writmesh/writ/sync/report"
	"github.com/writmesh/writ/sync/watch"
)

// maxJudged is how often a commit is judged because nodes joined meanwhile. More
// would let whoever holds an enrolment secret put off a revision.
const maxJudged = 3

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

	// owned by the goroutine that calls head
	base   *build.Result // of the revision in force
	handed key.Hash      // newest manifest that a coordinator is known to have

	mu      sync.Mutex // guards the fields below
	status  Status
	changed chan struct{}
}

// New opens sync's state.
func New(cfg Config) (*Applier, error) {
	a := &Applier{cfg: cfg, log: cfg.Log, rootDocs: cfg.Roots, changed: make(chan struct{})}
	if len(cfg.Coordinators) == 0 {
		return nil, errors.New("no coordinator to publish to")
	}
	roots, err := chain(cfg.Roots)
	if err != nil {
		return nil, err
	}
	a.root = roots[len(roots)-1]
	if !slices.ContainsFunc(a.root.SealKeys, cfg.Seal.Public().Equal) {
		return nil, fmt.Errorf("the seal key %s is not one that the root document names", cfg.Seal.Public())
	}
	if a.publisher, err = publish.Open(cfg.Dir, cfg.Keys, a.root); err != nil {
		return nil, err
	}
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
	log, err := admit.OpenLog(cfg.Dir, roots)
	if err != nil {
		return nil, err
	}
	a.admitter = &admit.Admitter{Network: a.root.Network, Sign: cfg.Keys.Admission, Seal: cfg.Seal, Log: log}
	a.reporter = report.New(a.root.Network)
	a.status.Network = a.root.Network
	if err := a.resume(); err != nil {
		log.Close()
		return nil, err
	}
	return a, nil
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
		if n := a.admitter.Len(); n > 0 {
			return fmt.Errorf("%d nodes were admitted, and the revision that was in force is gone; nothing is signed until it is recovered", n)
		}
		return nil
	}
	if h := cur.Manifest.Inventory; !a.admitter.Has(h) {
		return fmt.Errorf("the admission that revision %s was judged by is not in the log: %w", cur.Manifest.Position, admit.ErrLost)
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
	live, _, _ := a.admitter.Inventory(r.Ended)
	a.reporter.Target(r, live, decided)
	a.update(func(*Status) {})
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
	a.update(func(s *Status) {
		if s.Head != head {
			s.Head, s.Waiting = head, ""
		}
	})
	err := a.take(ctx, head, time.Now())
	var refused *Refused
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused):
		a.log.Error("commit refused; the revision in force stays", "commit", refused.Commit, "stage", refused.Stage, "reason", refused.Reason)
		refusedCommits.WithLabelValues(refused.Stage).Inc()
		a.update(func(s *Status) { s.Refused, s.Waiting = refused, "" })
		return nil
	case err != nil:
		a.log.Error("head of the branch not applied yet; it is tried again", "commit", head, "err", err)
		a.update(func(s *Status) { s.Refused, s.Waiting = nil, err.Error() })
		return err
	}
	a.update(func(s *Status) { s.Refused, s.Waiting = nil, "" })
	return nil
}

// take brings a head the whole way to a coordinator.
func (a *Applier) take(ctx context.Context, head string, began time.Time) error {
	for judged := 1; ; judged++ {
		cur := a.publisher.Current()
		if cur != nil && string(cur.Manifest.Commit) == head && !a.past(cur) {
			return a.handOver(ctx)
		}
		next, err := a.judge(ctx, head, cur)
		if err != nil {
			return err
		}
		if err := a.handOver(ctx); err != nil {
			return err
		}
		if err := a.decide(next, began, judged < maxJudged); err != nil && !errors.Is(err, errJoined) {
			return err
		}
	}
}

// past reports whether a revision is of an epoch before the root document's: one
// that no coordinator takes any more.
func (a *Applier) past(r *publish.Revision) bool { return r.Manifest.Epoch != a.root.Epoch }

// handOver brings at least one coordinator to the revision in force; the others
// follow by themselves. Before the first revision it finds one that has none.
func (a *Applier) handOver(ctx context.Context) error {
	cur := a.publisher.Current()
	if cur != nil && (a.handed == cur.Manifest.Hash() || a.past(cur)) {
		return nil
	}
	results := make(chan error, len(a.coordinators))
	for _, l := range a.coordinators {
		l.kick(results)
	}
	var errs []error
	for range a.coordinators {
		select {
		case err := <-results:
			if err == nil {
				if cur != nil {
					a.handed = cur.Manifest.Hash()
				}
				return nil
			}
			errs = append(errs, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}
