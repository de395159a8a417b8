package source

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/writmesh/writ/policy/source/commit"
)

const (
	// maxRevision bounds a revision's text.
	maxRevision = 512
	// maxPeel bounds how many tags may point at tags.
	maxPeel = 8
	// maxTag bounds a tag object; its message is of no use here.
	maxTag = 1 << 20
	// minAbbreviation is the shortest hash that is looked up, as in Git.
	minAbbreviation = 4
)

// Resolve returns the full hash of the commit that a revision means. A revision
// is a branch, a tag, a remote branch, a full reference, HEAD or @, or a hash of
// at least four digits; after it any number of ~N (the Nth first parent) and ^N
// (the Nth parent; ^0 is the commit itself). Git's further forms are refused. A
// hash that several commits begin with is refused.
func (r *Repository) Resolve(rev string) (string, error) {
	if r.git == nil {
		return "", fmt.Errorf("resolve %.60q: %s is %w", rev, r.dir, ErrNoRepository)
	}
	unknown := func(format string, args ...any) error {
		return fmt.Errorf("resolve %.60q: %w: %s", rev, ErrUnknownRevision, fmt.Sprintf(format, args...))
	}
	if rev == "" || len(rev) > maxRevision || rev[0] == '-' {
		return "", unknown("empty, too long, or begins with a dash")
	}
	base, steps := rev, ""
	if i := strings.IndexAny(rev, "~^"); i >= 0 {
		base, steps = rev[:i], rev[i:]
	}
	id, err := r.base(base)
	if err != nil {
		return "", fmt.Errorf("resolve %.60q: %w", rev, err)
	}
	for steps != "" {
		op := steps[0]
		steps = steps[1:]
		digits := len(steps) - len(strings.TrimLeft(steps, "0123456789"))
		n := 1
		if digits > 0 {
			if n, err = strconv.Atoi(steps[:digits]); err != nil {
				return "", unknown("number is too large")
			}
		}
		steps = steps[digits:]
		if steps != "" && steps[0] != '~' && steps[0] != '^' {
			return "", unknown("only ~N and ^N may follow a name")
		}
		parent := n
		if op == '~' {
			parent = 1
		} else {
			n = min(n, 1)
		}
		for range n {
			_, parents, err := r.links(id)
			if err != nil {
				return "", err
			}
			if parent > len(parents) {
				return "", unknown("commit %s has %d parents", short(id), len(parents))
			}
			id = parents[parent-1]
		}
	}
	return id, nil
}

// base resolves a name without steps. A full hash comes first, then references
// in Git's order, then an abbreviated hash.
func (r *Repository) base(name string) (string, error) {
	if name == "@" {
		name = "HEAD"
	}
	if commit.IsID(name) {
		return r.peel(name)
	}
	for _, format := range []string{"%s", "refs/%s", "refs/tags/%s", "refs/heads/%s", "refs/remotes/%s", "refs/remotes/%s/HEAD"} {
		full := plumbing.ReferenceName(fmt.Sprintf(format, name))
		if full != plumbing.HEAD && (!strings.HasPrefix(string(full), "refs/") || full.Validate() != nil) {
			continue
		}
		if id, err := r.reference(full); err == nil {
			return r.peel(id)
		}
	}
	return r.abbreviated(strings.ToLower(name))
}

func (r *Repository) reference(name plumbing.ReferenceName) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, err := r.git.Reference(name, true)
	if err != nil {
		return "", err
	}
	return ref.Hash().String(), nil
}

// abbreviated finds the one commit or tag whose name begins so.
func (r *Repository) abbreviated(prefix string) (string, error) {
	none := fmt.Errorf("%w: no branch, tag or commit has this name", ErrUnknownRevision)
	if len(prefix) < minAbbreviation || len(prefix) >= 40 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return "", none
	}
	whole, err := hex.DecodeString(prefix[:len(prefix)&^1])
	if err != nil {
		return "", none
	}
	candidates, err := r.withPrefix(whole)
	if err != nil {
		return "", err
	}
	var found []string
	for _, h := range candidates {
		id := h.String()
		if !strings.HasPrefix(id, prefix) || slices.Contains(found, id) {
			continue
		}
		if c, err := r.peel(id); err == nil && !slices.Contains(found, c) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return "", none
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: %d commits begin so", ErrUnknownRevision, len(found))
}

func (r *Repository) withPrefix(prefix []byte) ([]plumbing.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.git.Storer.(interface {
		HashesWithPrefix([]byte) ([]plumbing.Hash, error)
	})
	if !ok {
		return nil, fmt.Errorf("%w: this store cannot look up a hash by its beginning", ErrUnknownRevision)
	}
	return s.HashesWithPrefix(prefix)
}

// peel follows tags to a commit.
func (r *Repository) peel(id string) (string, error) {
	for range maxPeel {
		kind, err := r.kindOf(id)
		if err != nil {
			return "", err
		}
		switch kind {
		case plumbing.CommitObject:
			return id, nil
		case plumbing.TagObject:
			data, err := r.object(plumbing.TagObject, id, maxTag)
			if err != nil {
				return "", err
			}
			line, _, _ := bytes.Cut(data, []byte("\n"))
			target, ok := strings.CutPrefix(string(line), "object ")
			if !ok || !commit.IsID(target) {
				return "", fmt.Errorf("%w: tag %s does not say what it names", ErrUnknownRevision, short(id))
			}
			id = target
		default:
			return "", fmt.Errorf("%w: %s is a %s, not a commit", ErrUnknownRevision, short(id), kind)
		}
	}
	return "", fmt.Errorf("%w: more than %d tags of tags", ErrUnknownRevision, maxPeel)
}

func (r *Repository) kindOf(id string) (kind plumbing.ObjectType, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: object %s: %v", ErrDamaged, id, p)
		}
	}()
	hash := plumbing.NewHash(id)
	size, err := r.git.Storer.EncodedObjectSize(hash)
	if err == plumbing.ErrObjectNotFound {
		return 0, fmt.Errorf("%w: object %s is not in the repository", ErrUnknownRevision, short(id))
	}
	if err == nil && size > max(maxTag, commit.MaxSize) {
		return 0, fmt.Errorf("%w: object %s is too large for a commit", ErrUnknownRevision, short(id))
	}
	obj, err := r.git.Storer.EncodedObject(plumbing.AnyObject, hash)
	if err != nil {
		return 0, fmt.Errorf("%w: object %s: %v", ErrDamaged, id, err)
	}
	return obj.Type(), nil
}

// links returns a commit's tree and parents.
func (r *Repository) links(id string) (tree string, parents []string, err error) {
	raw, err := r.Raw(id)
	if err != nil {
		return "", nil, err
	}
	if tree, parents, err = commit.Links(raw); err != nil {
		return "", nil, fmt.Errorf("read commit %s: %w", short(id), err)
	}
	return tree, parents, nil
}

// MergeBase returns the best common ancestor of two revisions: one that no other
// common ancestor descends from. Where crossed merges leave several, it is the
// newest by committer's time, and of these the least hash.
func (r *Repository) MergeBase(a, b string) (string, error) {
	var seen [2]map[string][]string
	for i, rev := range []string{a, b} {
		id, err := r.Resolve(rev)
		if err != nil {
			return "", err
		}
		if seen[i], err = r.history(id); err != nil {
			return "", err
		}
	}
	// Ancestors of a common ancestor are common too, so it is enough to rule
	// out the parents of each.
	shadowed := make(map[string]bool)
	var common []string
	for id, parents := range seen[0] {
		if _, ok := seen[1][id]; !ok {
			continue
		}
		common = append(common, id)
		for _, p := range parents {
			shadowed[p] = true
		}
	}
	common = slices.DeleteFunc(common, func(id string) bool { return shadowed[id] })
	if len(common) == 0 {
		return "", fmt.Errorf("merge base of %.60q and %.60q: %w", a, b, ErrNoMergeBase)
	}
	slices.Sort(common)
	if len(common) == 1 {
		return common[0], nil
	}
	best, bestTime := "", int64(0)
	for _, id := range common {
		c, err := r.Commit(id)
		if err != nil {
			return "", err
		}
		if t := c.When.Unix(); best == "" || t > bestTime {
			best, bestTime = id, t
		}
	}
	return best, nil
}

// history returns the parents of a commit and of each of its ancestors.
func (r *Repository) history(id string) (map[string][]string, error) {
	out := make(map[string][]string)
	for todo := []string{id}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := out[id]; ok {
			continue
		}
		if len(out) == MaxHistory {
			return nil, fmt.Errorf("walk history: more than %d commits", MaxHistory)
		}
		_, parents, err := r.links(id)
		if err != nil {
			return nil, err
		}
		out[id] = parents
		todo = append(todo, parents...)
	}
	return out, nil
}
