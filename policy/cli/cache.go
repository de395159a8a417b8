package cli

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/source"
)

// A cache keeps what "policy check" and "policy test" found out, so that the same
// question about the same files is answered without evaluating them again. It is
// for people who run these commands often. Nothing that signs or publishes reads
// it: package sync calls package build, which does not know of it.
//
// An entry is a file in the user's cache folder (os.UserCacheDir, writ/policy),
// which must be this user's alone. It is named by the hash of all that the answer
// depends on: the verb, the program's build, the files, the commit if it is one, and
// the inventory. It begins with the hash of the rest, which is JSON: from when to
// when the answer holds, and the answer. Files at rest end some answers: a rule or a
// membership ends, hours begin. An entry that is damaged, not yet or no longer
// valid, or another program's is as if it were not there. So is a cache that cannot
// be read or written: it makes nothing fail.
//
// Entries are written whole and renamed into place, so that any number of programs
// may use the folder. The oldest go when there are more than maxEntries.
type cache struct {
	dir   string // empty: there is none
	build string // of the program
}

const (
	// maxEntry bounds an answer: some ten thousand warnings.
	maxEntry = 4 << 20
	// maxEntries bounds the folder: a day's work on a few policies.
	maxEntries = 64
)

// openCache is the user's cache, or one that keeps nothing where there is no place
// for it.
func openCache() *cache {
	c := &cache{build: buildID()}
	home, err := os.UserCacheDir()
	if err != nil || c.build == "" {
		return c
	}
	if os.Getenv("XDG_CACHE_HOME") == "" { // then it is in the user's home, which is not made here
		user, err := os.UserHomeDir()
		if err != nil {
			return c
		}
		if _, err := os.Stat(user); err != nil {
			return c
		}
	}
	dir := filepath.Join(home, "writ", "policy")
	if os.MkdirAll(dir, 0o700) != nil {
		return c
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return c
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Getuid() {
		return c // somebody else could have written what is there
	}
	c.dir = dir
	return c
}

// buildID is the identity of the program that runs, from the note that Go's linker
// leaves in it: the same for the same sources and compiler. It is empty where it
// cannot be read; then nothing is kept.
func buildID() string {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	s := f.Section(".note.go.buildid")
	if s == nil || s.Size > 4096 {
		return ""
	}
	note, err := s.Data()
	if err != nil || len(note) <= 16 {
		return ""
	}
	return hex.EncodeToString(note)
}

// key names the answer that a verb gives about a tree and an inventory (its bytes;
// nil: none). It is empty where there is no answer to keep.
func (c *cache) key(verb string, tree source.Tree, inventory []byte) string {
	if c.dir == "" || tree.FS == nil {
		return ""
	}
	files, err := source.SourceHash(tree.FS)
	if err != nil {
		return ""
	}
	h := sha256.New()
	part := func(b []byte) { fmt.Fprintf(h, "%d:%s,", len(b), b) }
	for _, s := range []string{"1", verb, c.build, files.String()} {
		part([]byte(s))
	}
	commit, err := json.Marshal(tree.Commit)
	if err != nil {
		return ""
	}
	part(commit)
	part([]byte(strconv.FormatBool(inventory != nil)))
	part(inventory)
	return hex.EncodeToString(h.Sum(nil))
}

// A kept answer.
type kept struct {
	From   time.Time       `json:"from"`
	Until  time.Time       `json:"until,omitzero"` // not included; zero: for ever
	Answer json.RawMessage `json:"answer"`
}

// get reads an answer that holds at a time into out, and reports whether there was
// one.
func (c *cache) get(key string, at time.Time, out any) bool {
	if c.dir == "" || key == "" {
		return false
	}
	f, err := os.Open(filepath.Join(c.dir, key))
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	if err != nil || len(b) > maxEntry || len(b) < 2*sha256.Size {
		return false
	}
	sum, body := b[:2*sha256.Size], b[2*sha256.Size:]
	if hash := sha256.Sum256(body); hex.EncodeToString(hash[:]) != string(sum) {
		return false
	}
	var k kept
	if json.Unmarshal(body, &k) != nil || at.Before(k.From) || !k.Until.IsZero() && !at.Before(k.Until) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(k.Answer))
	d.DisallowUnknownFields()
	return d.Decode(out) == nil
}

// put keeps an answer, where it can be kept.
func (c *cache) put(key string, r *build.Result, answer any) {
	if c.dir == "" || key == "" {
		return
	}
	k := kept{From: r.At}
	if r.Tree.Commit == nil { // a commit is judged at its own time, always
		k.Until = holdsUntil(r.Policy, r.At)
	} else {
		k.From = time.Time{}
	}
	var err error
	if k.Answer, err = json.Marshal(answer); err != nil {
		return
	}
	body, err := json.Marshal(k)
	if err != nil || len(body)+2*sha256.Size > maxEntry {
		return
	}
	hash := sha256.Sum256(body)
	f, err := os.CreateTemp(c.dir, "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(append([]byte(hex.EncodeToString(hash[:])), body...))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, key))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	c.prune()
}

// prune removes the oldest entries where there are too many.
func (c *cache) prune() {
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) <= maxEntries {
		return
	}
	type aged struct {
		name string
		when time.Time
	}
	var all []aged
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			all = append(all, aged{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Or(b.when.Compare(a.when), strings.Compare(a.name, b.name)) })
	for _, old := range all[min(maxEntries, len(all)):] {
		os.Remove(filepath.Join(c.dir, old.name))
	}
}

// holdsUntil is the first moment after at when the same files may be judged
// otherwise: something ends, or an hour's window begins or ends. Zero: never.
func holdsUntil(p *model.Policy, at time.Time) (first time.Time) {
	next := func(t time.Time) {
		if t.After(at) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, g := range p.Groups {
		for _, m := range g.Members {
			next(m.Until)
		}
	}
	for _, e := range p.Enrolment {
		next(e.Expires)
	}
	for _, r := range p.Rules {
		next(r.Until)
		for _, w := range r.Hours {
			next(w.Next(at))
		}
	}
	return first
}
