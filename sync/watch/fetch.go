package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writmesh/writ/policy/source"
)

// Fetch asks the remote for the branch and returns its head, which is then
// whole in the store. It says nothing about whether that head descends from the
// one before.
func (f *Follower) Fetch(ctx context.Context) (head string, err error) {
	f.fetching.Lock()
	defer f.fetching.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, FetchTime, fmt.Errorf("%w: fetch took more than %s", ErrLimit, FetchTime))
	defer cancel()
	head, err = f.fetch(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %v", cause, err)
		}
		err = fmt.Errorf("fetch %s of %s: %w", f.branch.Short(), f.remote.name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	switch f.status.Err = err; {
	case err == nil:
		f.status.Head, f.status.Fetched, f.status.Failing = head, now, time.Time{}
	case f.status.Failing.IsZero():
		f.status.Failing = now
	}
	return head, err
}

func (f *Follower) fetch(ctx context.Context) (string, error) {
	s, err := f.remote.session(ctx)
	if err != nil {
		return "", err
	}
	defer s.close()
	head, err := s.head(ctx, f.branch)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	h, old, damaged := f.history, f.status.Head, f.damaged
	f.mu.Unlock()
	if h == nil || damaged {
		return head, f.clone(ctx, s, head)
	}
	if head == old {
		return head, nil
	}
	if err := h.whole(ctx, head); err == nil {
		return head, f.store.setHead(f.branch, head) // moved to a commit that is here
	} else if ctx.Err() != nil {
		return "", err
	}
	var have []string
	if old != "" {
		have = []string{old}
	}
	if err := s.pack(ctx, f.store.current(), head, have); err != nil {
		return "", err
	}
	repo, _, err := f.store.open(f.branch)
	if err != nil {
		return "", err
	}
	h = h.reopened(repo)
	err = h.whole(ctx, head)
	if errors.Is(err, source.ErrDamaged) {
		return head, f.cloneAgain(ctx, head)
	}
	if err != nil {
		return "", err
	}
	if err := f.store.setHead(f.branch, head); err != nil {
		return "", err
	}
	f.mu.Lock()
	f.history = h
	f.mu.Unlock()
	if f.store.packs() > f.limits.packs && h.ancestors(head, nil)[old] {
		// The packs as they are will do, if this does not work.
		if err := f.cloneAgain(ctx, head); err != nil {
			f.log.Warn("gather packs of the policy repository", "err", err)
		}
	}
	return head, nil
}

// cloneAgain clones through a session of its own: one over HTTP gives one pack.
func (f *Follower) cloneAgain(ctx context.Context, head string) error {
	s, err := f.remote.session(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	now, err := s.head(ctx, f.branch)
	if err != nil {
		return err
	}
	if now != head {
		return errors.New("branch moved while it was fetched")
	}
	return f.clone(ctx, s, head)
}

// clone fetches everything into a new store, which takes the old one's place
// only if it is whole.
func (f *Follower) clone(ctx context.Context, s session, head string) error {
	if err := f.store.begin(); err != nil {
		return err
	}
	defer f.store.discard()
	if err := s.pack(ctx, f.store.next(), head, nil); err != nil {
		return err
	}
	repo, err := source.Open(f.store.next())
	if err != nil {
		return err
	}
	h := newHistory(repo)
	if err := h.whole(ctx, head); err != nil {
		return fmt.Errorf("remote sent an incomplete history: %w", err)
	}
	f.swapping.Lock()
	defer f.swapping.Unlock()
	if err := f.store.commit(f.branch, head); err != nil {
		return err
	}
	if repo, _, err = f.store.open(f.branch); err != nil {
		return err
	}
	f.mu.Lock()
	f.history, f.damaged = h.reopened(repo), false
	f.mu.Unlock()
	return nil
}
