// Package watch follows one branch of a Git remote into a store of objects. It
// says what the branch's head is, gives the trees and commits behind it, and
// judges nothing: who signed a commit and whether history was rewritten is for
// the caller, who has Commits and package verify for it.
//
// The store is bare: no worktree, no index, no hooks, no filters, no submodules,
// and no git program. With policy/source this is the only door to go-git.
//
// A fetch, in order:
//
//  1. ask the remote for its references (at most MaxRefs bytes) and take the
//     branch's; no such branch is ErrNoBranch
//  2. if that commit is not in the store, ask for a pack with it, naming what
//     the store has
//  3. write the pack to a file, at most MaxPack bytes
//  4. walk the pack once without keeping anything: its checksum, its end, and
//     the limits below
//  5. index it, which hashes every object, and move it into the store
//  6. read the head's tree and every commit not seen before, each hashed again
//  7. only then note the branch's new head
//
// Nothing before step 7 changes what Head, Tree and Commits answer, and a fetch
// that fails leaves no file behind. Where step 6 finds an object missing or
// changed, whether a disk lost it or the remote never sent it, the remote is
// cloned anew beside the old store, and takes its place only if whole.
//
// Limits, each ending the fetch with an error that names it:
//
//	FetchTime     for all of it              MaxObjects   objects in a pack
//	MaxRefs       bytes of references        MaxObject    bytes of one object
//	MaxPack       bytes of a pack            MaxInflated  bytes of all objects of a pack
//	                                         maxChain     bytes along one chain of deltas
//
// Remotes: a path or file:// URL, http:// and https://. Others are refused, ssh
// with the advice to use https. A URL holds no credentials: they are in a file,
// read at each fetch so that they can be replaced, and go to the remote's own
// host and nowhere else. A redirect to another host or from https to http is
// refused.
package watch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/sync/verify"
)

const (
	// FetchTime bounds a fetch, so that a server that sends a byte a second
	// holds up nothing for long.
	FetchTime = time.Minute
	// MaxRefs bounds the list of references: a hundred thousand of them.
	MaxRefs = 16 << 20
	// MaxPack bounds a pack: as much as a whole tree may hold, and compressed.
	MaxPack = 64 << 20
	// MaxObjects bounds a pack's objects.
	MaxObjects = 100_000
	// MaxObject bounds one object, as a tree bounds a file.
	MaxObject = source.MaxFile
	// MaxInflated bounds what a pack's objects are together. It is time that
	// this bounds, not memory: they are not held at once.
	MaxInflated = 512 << 20
	// maxChain bounds the objects along one chain of deltas, which may be in
	// memory at once.
	maxChain = 128 << 20
	// maxPacks is how many packs the store gathers, one each fetch, before it
	// is cloned anew into one. Every pack costs an open index.
	maxPacks = 64
)

var (
	// ErrNoBranch says that the remote answers and has no such branch.
	ErrNoBranch = errors.New("remote has no such branch")
	// ErrNotDescendant says that history was rewritten: the later commit does
	// not descend from the earlier one.
	ErrNotDescendant = errors.New("not a descendant")
	// ErrLimit says that the remote sent more than is taken.
	ErrLimit = errors.New("limit exceeded")
)

// The limits that tests make smaller, so as to reach them soon.
type limits struct {
	refs, pack, inflated, chain int64
	packs                       int
}

var usualLimits = limits{refs: MaxRefs, pack: MaxPack, inflated: MaxInflated, chain: maxChain, packs: maxPacks}

// A Config says what to follow.
type Config struct {
	// Remote is a path, or a file://, http:// or https:// URL.
	Remote string
	// Branch is the branch's short name, such as main.
	Branch string
	// Dir is a directory of the follower's own. It is made if missing.
	Dir string
	// Credentials is a file of one line, a token or user:password, for http
	// remotes. Empty means none.
	Credentials string
	// RootCAs are trusted for https; nil means the system's.
	RootCAs *x509.CertPool
	// Interval is between polls; 0 means 30 seconds.
	Interval time.Duration
	// Log gets a line when fetching begins to fail and when it works again;
	// nil means none.
	Log *slog.Logger
}

// A Follower follows one branch. Its methods may be called by several
// goroutines.
type Follower struct {
	// set at construction
	remote   *remote
	branch   plumbing.ReferenceName
	store    store
	interval time.Duration
	limits   limits
	log      *slog.Logger
	wake     chan struct{} // holds at most one

	fetching sync.Mutex   // held for a fetch
	swapping sync.RWMutex // held to read the store, and to put another in its place

	mu      sync.Mutex
	history *history // nil until there is a store
	damaged bool     // the store is to be cloned anew
	status  Status
}

// A Status is what there is to tell about following.
type Status struct {
	Remote, Branch string
	Head           string    // "" until fetched
	Fetched        time.Time // of the last fetch that worked
	Err            error     // of the last fetch, nil if it worked
	Failing        time.Time // since when fetches fail; zero if they do not
}

// New makes a follower. It touches the state directory and not the network. A
// head that an earlier follower noted is there again, if its store is whole.
func New(cfg Config) (*Follower, error) { return newFollower(cfg, usualLimits) }

func newFollower(cfg Config, lim limits) (*Follower, error) {
	r, err := parseRemote(cfg.Remote, cfg.Credentials, cfg.RootCAs, lim)
	if err != nil {
		return nil, fmt.Errorf("follow remote: %w", err)
	}
	branch := plumbing.NewBranchReferenceName(cfg.Branch)
	if err := branch.Validate(); err != nil || cfg.Branch == "" || cfg.Branch[0] == '-' {
		return nil, fmt.Errorf("follow remote: %.60q is no name for a branch", cfg.Branch)
	}
	if cfg.Interval == 0 {
		cfg.Interval = 30 * time.Second
	}
	if cfg.Interval < 0 {
		return nil, fmt.Errorf("follow remote: interval %s is negative", cfg.Interval)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Follower{
		remote:   r,
		branch:   branch,
		store:    store{cfg.Dir},
		interval: cfg.Interval,
		limits:   lim,
		log:      cfg.Log,
		wake:     make(chan struct{}, 1),
		status:   Status{Remote: r.name, Branch: cfg.Branch},
	}
	if err := f.store.recover(); err != nil {
		return nil, fmt.Errorf("follow remote: %w", err)
	}
	f.resume()
	return f, nil
}

// resume takes up the store that is there. If it is not whole, or there is none,
// the first fetch clones.
func (f *Follower) resume() {
	repo, head, err := f.store.open(f.branch)
	if err != nil {
		f.damaged = true
		return
	}
	f.history = newHistory(repo)
	if head == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), FetchTime)
	defer cancel()
	if err := f.history.whole(ctx, head); err != nil {
		f.damaged = true
		return
	}
	f.status.Head = head
}

// Head returns the head that was last fetched, "" if none was.
func (f *Follower) Head() string { return f.Status().Head }

// Status returns what there is to tell.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Tree returns the tree of a commit in the store, by its full hash.
func (f *Follower) Tree(commit string) (source.Tree, error) {
	f.swapping.RLock()
	defer f.swapping.RUnlock()
	h, err := f.current()
	if err != nil {
		return source.Tree{}, err
	}
	t, err := h.repo.Tree(commit)
	return t, f.note(h, commit, err)
}

// Commit returns what is known of a commit in the store, by its full hash.
func (f *Follower) Commit(commit string) (source.Commit, error) {
	f.swapping.RLock()
	defer f.swapping.RUnlock()
	h, err := f.current()
	if err != nil {
		return source.Commit{}, err
	}
	c, err := h.repo.Commit(commit)
	return c, f.note(h, commit, err)
}

// Blamer tells the origins of lines as of a commit in the store, by its full
// hash. It reads the store that is in use now; if a fetch puts another in its
// place it may fail, and never answers falsely.
func (f *Follower) Blamer(commit string) (*source.Blamer, error) {
	f.swapping.RLock()
	defer f.swapping.RUnlock()
	h, err := f.current()
	if err != nil {
		return nil, err
	}
	b, err := h.repo.Blamer(commit)
	return b, f.note(h, commit, err)
}

// Commits returns every commit that to reaches and from does not, through all
// parents of every merge, parents before children. An empty from stands for
// before the beginning. If to does not descend from from the error is
// ErrNotDescendant.
func (f *Follower) Commits(ctx context.Context, from, to string) ([]verify.RawCommit, error) {
	f.swapping.RLock()
	defer f.swapping.RUnlock()
	h, err := f.current()
	if err != nil {
		return nil, err
	}
	out, err := h.commits(ctx, from, to)
	if err != nil {
		return nil, f.note(h, to, fmt.Errorf("list commits: %w", err))
	}
	return out, nil
}

func (f *Follower) current() (*history, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.history == nil {
		return nil, errors.New("nothing was fetched yet")
	}
	return f.history, nil
}

// note has the next fetch clone anew where an error is damage to a commit that
// was whole once. That a commit was never here is no damage.
func (f *Follower) note(h *history, commit string, err error) error {
	if (errors.Is(err, source.ErrDamaged) || errors.Is(err, source.ErrUnknownRevision)) && h.knows(commit) {
		f.mu.Lock()
		f.damaged = true
		f.mu.Unlock()
	}
	return err
}
