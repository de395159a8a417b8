package source

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

const (
	// maxBlamed bounds the bytes of a file whose lines are traced. A rule is in
	// a file that people write; a bulk list is not traced line by line.
	maxBlamed = 1 << 20
	// maxEdits bounds the lines by which two versions of a file may differ and
	// still be compared line by line: the comparison costs its square. Beyond
	// it everything between their common beginning and end counts as changed.
	maxEdits = 2000
)

// An Origin is the commit that gave a line its present form.
type Origin struct {
	Commit        string // full hash
	Author, Email string // "" where that commit is too odd to parse
	When          time.Time
}

// A Blamer tells the origins of lines as of one commit. It keeps what it learnt;
// one is made for each build. It may be used by several goroutines.
type Blamer struct {
	repo *Repository
	head string

	mu      sync.Mutex
	parents map[string][]string // of the head and its ancestors; nil until needed
	order   []string            // of the same, children before parents
	files   map[string][]Origin
	commits map[string]Origin
}

// Blamer returns a Blamer as of a revision.
func (r *Repository) Blamer(rev string) (*Blamer, error) {
	id, err := r.Resolve(rev)
	if err != nil {
		return nil, err
	}
	return &Blamer{repo: r, head: id, files: make(map[string][]Origin), commits: make(map[string]Origin)}, nil
}

// LastChanged returns the origin of a line, counted from 1, of a file of the
// tree. As in git blame, lines are followed through every parent of a merge: one
// with the very same file, or else each in turn. They are not followed through
// renames: in a renamed file all are new.
func (b *Blamer) LastChanged(file string, line int) (Origin, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines, ok := b.files[file]
	if !ok {
		var err error
		if lines, err = b.trace(file); err != nil {
			return Origin{}, fmt.Errorf("trace %s: %w", file, err)
		}
		b.files[file] = lines
	}
	if line < 1 || line > len(lines) {
		return Origin{}, fmt.Errorf("trace %s: no line %d; it has %d", file, line, len(lines))
	}
	return lines[line-1], nil
}

// sort walks the history and puts children before their parents.
func (b *Blamer) sort() error {
	if b.parents != nil {
		return nil
	}
	parents, err := b.repo.history(b.head)
	if err != nil {
		return err
	}
	children := make(map[string]int) // not yet placed
	for _, ps := range parents {
		for _, p := range ps {
			children[p]++
		}
	}
	for todo := []string{b.head}; len(todo) > 0; {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		b.order = append(b.order, id)
		for _, p := range parents[id] {
			if children[p]--; children[p] == 0 {
				todo = append(todo, p)
			}
		}
	}
	b.parents = parents
	return nil
}

// trace finds the origin of every line of a file. A commit holds, of the lines
// asked about, those that came to it from its children; it passes on to each
// parent those that the parent has too, and is the origin of the rest.
func (b *Blamer) trace(file string) ([]Origin, error) {
	if err := b.sort(); err != nil {
		return nil, err
	}
	blobs := make(map[string]string) // tree object -> blob of the file in it
	lines := make(map[string][]string)
	version := func(commit string) (blob string, err error) {
		tree, _, err := b.repo.links(commit)
		if err != nil {
			return "", err
		}
		blob, ok := blobs[tree]
		if !ok {
			if blob, err = b.repo.blobAt(tree, file); err != nil {
				return "", err
			}
			blobs[tree] = blob
		}
		if _, ok := lines[blob]; !ok && blob != "" {
			data, err := b.repo.object(plumbing.BlobObject, blob, maxBlamed)
			if err != nil {
				return "", err
			}
			lines[blob] = splitLines(data)
		}
		return blob, nil
	}
	blob, err := version(b.head)
	if err != nil {
		return nil, err
	}
	if blob == "" {
		return nil, errors.New("no such file in this commit")
	}
	out := make([]Origin, len(lines[blob]))
	type asked map[int][]int // line of this version -> lines of the head's
	first := make(asked)
	for i := range out {
		first[i] = []int{i}
	}
	held := map[string]asked{b.head: first}
	for _, id := range b.order {
		mine := held[id]
		delete(held, id)
		if len(mine) == 0 {
			continue
		}
		blob, err := version(id)
		if err != nil {
			return nil, err
		}
		var theirs []string // the parents' versions; "" for none that compares
		for _, p := range b.parents[id] {
			v, err := version(p)
			if err != nil && !errors.Is(err, errTooLarge) {
				return nil, err
			}
			theirs = append(theirs, v)
		}
		ask := func(parent, line int, all []int) {
			p := b.parents[id][parent]
			if held[p] == nil {
				held[p] = make(asked)
			}
			held[p][line] = append(held[p][line], all...)
		}
		if p := slices.Index(theirs, blob); p >= 0 {
			for i, all := range mine {
				ask(p, i, all)
			}
			continue
		}
		for p, v := range theirs {
			if v == "" || len(mine) == 0 {
				continue
			}
			same := commonLines(lines[blob], lines[v])
			for i, all := range mine {
				if j := same[i]; j >= 0 {
					ask(p, j, all)
					delete(mine, i)
				}
			}
		}
		for _, all := range mine {
			for _, i := range all {
				out[i] = b.origin(id)
			}
		}
	}
	return out, nil
}

func (b *Blamer) origin(id string) Origin {
	o, ok := b.commits[id]
	if !ok {
		o = Origin{Commit: id}
		if c, err := b.repo.Commit(id); err == nil {
			o.Author, o.Email, o.When = c.Author, c.Email, c.When
		}
		b.commits[id] = o
	}
	return o
}

// blobAt returns the blob of a file, whose path is within r.sub, in a tree
// object, or "" if there is none.
func (r *Repository) blobAt(tree, file string) (string, error) {
	path := file
	if r.sub != "." {
		path = r.sub + "/" + file
	}
	names := strings.Split(path, "/")
	for i, name := range names {
		es, err := r.entries(path, tree)
		if err != nil {
			return "", err
		}
		last, found := i == len(names)-1, false
		for _, e := range es {
			if e.name != name {
				continue
			}
			if last && (e.mode == modeFile || e.mode == modeExecutable) {
				return e.id, nil
			}
			if !last && e.mode == modeDir {
				tree, found = e.id, true
			}
		}
		if !found {
			return "", nil
		}
	}
	return "", nil
}

func splitLines(data []byte) []string {
	var out []string
	for line := range bytes.Lines(data) {
		out = append(out, string(line))
	}
	return out
}

// commonLines returns, for each line of a, the line of b that is the same line,
// or -1: a longest common subsequence, by Myers' greedy algorithm (1986).
func commonLines(a, b []string) []int {
	same := make([]int, len(a))
	for i := range same {
		same[i] = -1
	}
	lo := 0
	for lo < len(a) && lo < len(b) && a[lo] == b[lo] {
		same[lo] = lo
		lo++
	}
	ha, hb := len(a), len(b)
	for ha > lo && hb > lo && a[ha-1] == b[hb-1] {
		ha--
		hb--
		same[ha] = hb
	}
	x, y := a[lo:ha], b[lo:hb]
	// reach[d][k+d] is how far into x the furthest path of d edits on diagonal
	// k (place in x less place in y) comes.
	var reach [][]int
	at := func(d, k int) int {
		if d < 0 {
			return 0
		}
		return reach[d][k+d]
	}
	step := func(d, k int) (from int, down bool) {
		if d == 0 {
			return 0, true
		}
		down = k == -d || k != d && at(d-1, k-1) < at(d-1, k+1)
		if down {
			return at(d-1, k+1), true
		}
		return at(d-1, k-1) + 1, false
	}
	for d := 0; d <= min(len(x)+len(y), maxEdits); d++ {
		reach = append(reach, make([]int, 2*d+1))
		for k := -d; k <= d; k += 2 {
			i, _ := step(d, k)
			for i < len(x) && i-k >= 0 && i-k < len(y) && x[i] == y[i-k] {
				i++
			}
			reach[d][k+d] = i
			if i < len(x) || i-k < len(y) {
				continue
			}
			for ; d >= 0; d-- { // back along the path
				from, down := step(d, k)
				for i = at(d, k); i > from; i-- {
					same[lo+i-1] = lo + i - 1 - k
				}
				if down {
					k++
				} else {
					k--
				}
			}
			return same
		}
	}
	return same
}
