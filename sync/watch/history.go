package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/writmesh/writ/policy/source"
	"github.com/writmesh/writ/policy/source/commit"
	"github.com/writmesh/writ/sync/verify"
)

// maxRange bounds the bytes of the commits that Commits returns.
const maxRange = 64 << 20

// A history is a store and what was learnt of the commits in it.
type history struct {
	repo *source.Repository

	mu    sync.Mutex
	links map[string][]string // parents of commits that were read; a commit is here only with all its ancestors
}

func newHistory(repo *source.Repository) *history {
	return &history{repo: repo, links: make(map[string][]string)}
}

// reopened is the same history in a store that has got more objects.
func (h *history) reopened(repo *source.Repository) *history {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &history{repo: repo, links: maps.Clone(h.links)}
}

func (h *history) knows(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.links[id]
	return ok
}

// whole checks that a commit, its files and all its ancestors are in the store
// and are what their names say. A tree that no policy may have is whole: to
// refuse it is for whoever builds it.
func (h *history) whole(ctx context.Context, head string) error {
	if err := h.learn(ctx, head); err != nil {
		return err
	}
	_, err := h.repo.Tree(head)
	if errors.Is(err, source.ErrDamaged) || errors.Is(err, source.ErrUnknownRevision) {
		return err
	}
	return nil
}

// learn reads the commits from id down to those known already.
func (h *history) learn(ctx context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := make(map[string][]string)
	for todo := []string{id}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := found[id]; ok {
			continue
		}
		if _, ok := h.links[id]; ok {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if len(h.links)+len(found) >= source.MaxHistory {
			return fmt.Errorf("%w: history has more than %d commits", ErrLimit, source.MaxHistory)
		}
		raw, err := h.repo.Raw(id)
		if err != nil {
			return err
		}
		_, parents, err := commit.Links(raw)
		if err != nil {
			return fmt.Errorf("read commit %s: %w", id, err)
		}
		found[id] = parents
		todo = append(todo, parents...)
	}
	maps.Copy(h.links, found)
	return nil
}

// ancestors returns a known commit and all its ancestors, without those in
// except.
func (h *history) ancestors(id string, except map[string]bool) map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]bool)
	for todo := []string{id}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if out[id] || except[id] {
			continue
		}
		out[id] = true
		todo = append(todo, h.links[id]...)
	}
	return out
}

// commits does what Follower.Commits promises.
func (h *history) commits(ctx context.Context, from, to string) ([]verify.RawCommit, error) {
	if err := h.learn(ctx, to); err != nil {
		return nil, err
	}
	var old map[string]bool
	if from != "" {
		if !h.ancestors(to, nil)[from] {
			return nil, fmt.Errorf("%.12s is %w of %.12s: history was rewritten", to, ErrNotDescendant, from)
		}
		old = h.ancestors(from, nil)
	}
	var out []verify.RawCommit
	size := 0
	for _, id := range h.order(to, old) {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		raw, err := h.repo.Raw(id)
		if err != nil {
			return nil, err
		}
		if size += len(raw); size > maxRange {
			return nil, fmt.Errorf("%w: more than %d bytes of commits", ErrLimit, maxRange)
		}
		out = append(out, verify.RawCommit{Hash: id, Bytes: raw})
	}
	return out, nil
}

// order lists id and its ancestors outside old, parents first, the first parent's
// line before the second's.
func (h *history) order(id string, old map[string]bool) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	type visit struct {
		id   string
		next int // parent to look at
	}
	var out []string
	var stack []visit
	seen := make(map[string]bool)
	push := func(id string) {
		if !seen[id] && !old[id] {
			seen[id] = true
			stack = append(stack, visit{id: id})
		}
	}
	for push(id); len(stack) > 0; {
		top := &stack[len(stack)-1]
		if parents := h.links[top.id]; top.next < len(parents) {
			top.next++
			push(parents[top.next-1])
			continue
		}
		out = append(out, top.id)
		stack = stack[:len(stack)-1]
	}
	return out
}
