package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

// serve starts a server and returns the address of the repository on it.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL + "/repo.git"
}

func packOf(b []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
}

// leftOver lists what a failed fetch left in the state directory, beside what a
// store always has.
func leftOver(t *testing.T, f *Follower) []string {
	t.Helper()
	var out []string
	filepath.WalkDir(f.store.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return nil
	})
	return out
}

// The small pack is taken, so that what the tests below refuse is refused for
// what they do to it.
func TestSmallPack(t *testing.T) {
	head, objects := small(t)
	f := follow(t, serve(t, hostile{head: head, pack: packOf(makePack(objects...))}))
	mustFetch(t, f, head)
	wantFile(t, f, head, "package network\n")
}

// Whatever a server sends, a fetch ends with an error that says why, the disk is
// as before, and the memory used stays bounded.
func TestHostileServer(t *testing.T) {
	lim := limits{refs: 1 << 16, pack: 4 << 20, inflated: 16 << 20, chain: 12 << 20, packs: maxPacks}
	head, objects := small(t)
	good := makePack(objects...)
	flipped := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 0x40
		return b
	}
	zeros := make([]byte, 1<<20)
	blob := plumbing.BlobObject
	_, base := rawID(t, "blob", []byte("base"))
	var bomb []packed // after the first, each a delta of five bytes to eight megabytes
	bomb = append(bomb, packed{kind: blob, data: []byte("base")})
	result := []byte{4, 0x80, 0x80, 0x80, 4} // base of 4 bytes, result of 8 MiB
	for range 2 {
		bomb = append(bomb, packed{kind: plumbing.REFDeltaObject, data: result, base: base})
	}
	many := make([]packed, lim.inflated/(1<<20)+1) // some kilobytes that stand for megabytes
	for i := range many {
		many[i] = packed{kind: blob, data: zeros}
	}
	for name, tc := range map[string]struct {
		h     hostile
		want  string
		limit bool
	}{
		"endless_pack": {hostile{pack: func(w http.ResponseWriter, _ *http.Request) { endless(w, zeros) }}, "pack is larger", true},
		"endless_refs": {hostile{refs: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "001e# service=git-upload-pack\n0000")
			fmt.Fprintf(w, "0049%s refs/heads/a\x00agent=evil/1.0\n", head)
			for i := 0; ; i++ {
				line := fmt.Sprintf("%s refs/heads/b%d\n", head, i)
				if _, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line); err != nil {
					return
				}
			}
		}}, "references have more than", true},
		"endless_refusal": {hostile{refs: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			endless(w, bytes.Repeat([]byte("no "), 1000))
		}}, "authorization failed", false},
		"server_error":      {hostile{refs: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }}, "503", false},
		"not_git":           {hostile{refs: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }}, "list references", false},
		"empty_answer":      {hostile{pack: packOf(nil)}, "pack", false},
		"not_a_pack":        {hostile{pack: packOf([]byte("PAKC00000000"))}, "malformed pack file signature", false},
		"cut_short":         {hostile{pack: packOf(good[:len(good)-30])}, "pack", false},
		"wrong_checksum":    {hostile{pack: packOf(flipped(len(good) - 1))}, "checksum mismatch", false},
		"bytes_after":       {hostile{pack: packOf(append(bytes.Clone(good), "more"...))}, "4 bytes after the end", false},
		"too_few_objects":   {hostile{pack: packOf(makePackOf(2, objects...))}, "checksum", false},
		"too_many_claimed":  {hostile{pack: packOf(makePackOf(1<<32-1, objects...))}, "4294967295 objects", true},
		"more_than_there":   {hostile{pack: packOf(makePackOf(4, objects...))}, "pack", false},
		"huge_claim":        {hostile{pack: packOf(makePack(packed{kind: blob, data: []byte("x"), claim: 4 << 30}))}, "object of 4294967296 bytes", true},
		"inflates_to_more":  {hostile{pack: packOf(makePack(packed{kind: blob, data: zeros, claim: 10}))}, "exceeds declared size", false},
		"inflates_to_less":  {hostile{pack: packOf(makePack(packed{kind: blob, data: []byte("x"), claim: 10}))}, "says 10", false},
		"unknown_type":      {hostile{pack: packOf(makePack(packed{kind: 5, data: []byte("x")}))}, "unknown type 5", false},
		"type_zero":         {hostile{pack: packOf(makePack(packed{kind: 0, data: []byte("x")}))}, "unknown type 0", false},
		"zip_bomb":          {hostile{pack: packOf(makePack(many...))}, "objects have more than", true},
		"delta_bomb":        {hostile{pack: packOf(makePack(bomb...))}, "chain of deltas", true},
		"delta_too_large":   {hostile{pack: packOf(makePack(bomb[0], packed{kind: plumbing.REFDeltaObject, data: []byte{4, 0x81, 0x80, 0x80, 4}, base: base}))}, "object of 8388609 bytes", true},
		"delta_of_nothing":  {hostile{pack: packOf(makePack(packed{kind: plumbing.REFDeltaObject, data: []byte{4, 4, 0x90, 4}, base: make([]byte, 20)}))}, "reference delta not found", false},
		"delta_of_no_place": {hostile{pack: packOf(makePack(bomb[0], packed{kind: plumbing.OFSDeltaObject, data: []byte{4, 4, 0x90, 4}, base: []byte{1}}))}, "of no object", false},
		"delta_malformed":   {hostile{pack: packOf(makePack(bomb[0], packed{kind: plumbing.REFDeltaObject, data: bytes.Repeat([]byte{0xff}, 12), base: base}))}, "malformed", false},
		"delta_truncated":   {hostile{pack: packOf(makePack(bomb[0], packed{kind: plumbing.REFDeltaObject, data: []byte{4, 4, 0x90}, base: base}))}, "index pack", false},
		"no_objects":        {hostile{pack: packOf(makePack())}, "incomplete history", false},
		"without_blob":      {hostile{pack: packOf(makePack(objects[:2]...))}, "incomplete history", false},
		"without_tree":      {hostile{pack: packOf(makePack(objects[0], objects[2]))}, "incomplete history", false},
		"without_commit":    {hostile{pack: packOf(makePack(objects[1:]...))}, "incomplete history", false},
		"blob_as_commit":    {hostile{pack: packOf(makePack(packed{kind: blob, data: objects[0].data}, objects[1], objects[2]))}, "incomplete history", false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.h.head = head
			f, err := newFollower(Config{Remote: serve(t, tc.h), Branch: "main", Dir: t.TempDir()}, lim)
			if err != nil {
				t.Fatal(err)
			}
			before := leftOver(t, f)
			got, err := f.Fetch(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %s, %.300v; want an error containing %q", got, err, tc.want)
			}
			if tc.limit != errors.Is(err, ErrLimit) {
				t.Errorf("got %v, which is a limit: %v; want %v", err, !tc.limit, tc.limit)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
			if f.Head() != "" {
				t.Errorf("got head %s after a failure", f.Head())
			}
			if after := leftOver(t, f); len(after) != len(before) {
				t.Errorf("files left: %q; before: %q", after, before)
			}
		})
	}
}

// A pack without end, at the usual limit, is not held in memory.
func TestEndlessPackInLittleMemory(t *testing.T) {
	head, _ := small(t)
	f := follow(t, serve(t, hostile{head: head, pack: func(w http.ResponseWriter, _ *http.Request) { endless(w, make([]byte, 1<<20)) }}))
	if _, err := f.Fetch(t.Context()); !errors.Is(err, ErrLimit) {
		t.Errorf("got %v, want %v", err, ErrLimit)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.Sys > 256<<20 {
		t.Errorf("the process took %d MiB; want at most 256", m.Sys>>20)
	}
}

// A server that turns bad takes nothing away.
func TestGoodThenHostile(t *testing.T) {
	repo := sourcetest.New(t)
	c1 := repo.Commit(sourcetest.Commit{Files: files("one")})
	var now http.Handler = gitServer(t, repo.Dir)
	f := follow(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.ServeHTTP(w, r) })))
	mustFetch(t, f, c1)
	head, objects := small(t)
	for _, pack := range [][]byte{makePack(), makePack(objects[:2]...), []byte("PACK")} {
		now = hostile{head: head, pack: packOf(pack)}
		if got, err := f.Fetch(t.Context()); err == nil {
			t.Errorf("got %s; want an error", got)
		}
		if f.Head() != c1 {
			t.Errorf("got head %s, want %s", f.Head(), c1)
		}
		wantFile(t, f, c1, "one")
	}
	now = gitServer(t, repo.Dir)
	mustFetch(t, f, repo.Commit(sourcetest.Commit{Files: files("two")}))
}

// A server that sends nothing, or a byte at a time, is left when the time is up.
func TestSlowServer(t *testing.T) {
	head, _ := small(t)
	stall := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/info/refs") {
			io.WriteString(w, "001e# service=git-upload-pack\n")
		} else {
			io.WriteString(w, "PACK")
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	for name, h := range map[string]hostile{
		"references": {head: head, refs: stall},
		"pack":       {head: head, pack: stall},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, serve(t, h))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := f.Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		})
	}
}

func credentials(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// Credentials go to the remote's own host and nowhere else, and a redirect to
// another host is not followed.
func TestCredentialsAndRedirects(t *testing.T) {
	repo := sourcetest.New(t)
	c := repo.Commit(sourcetest.Commit{Files: files("one")})
	inner := gitServer(t, repo.Dir)
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "bot" || password != "s3:cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/old.git/info/refs" {
			http.Redirect(w, r, "/repo.git/info/refs?"+r.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		inner.ServeHTTP(w, r)
	})
	origin := serve(t, guarded)
	newFollower := func(remote, file string) *Follower {
		f, err := New(Config{Remote: remote, Branch: "main", Dir: t.TempDir(), Credentials: file})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	file := credentials(t, "bot:s3:cret\n", 0o600)
	mustFetch(t, newFollower(origin, file), c)
	mustFetch(t, newFollower(strings.Replace(origin, "/repo.git", "/old.git", 1), file), c) // within the host
	if _, err := newFollower(origin, "").Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "authentication required") {
		t.Errorf("without credentials: got %v, want authentication required", err)
	}

	var seen int
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen++ }))
	redirects := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere+"/info/refs?"+r.URL.RawQuery, http.StatusFound)
	}))
	_, err := newFollower(redirects, file).Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is refused") || strings.Contains(err.Error(), "s3:cret") {
		t.Errorf("redirect to another host: got %v, want a refusal without the password", err)
	}
	if seen != 0 {
		t.Errorf("the other host got %d requests", seen)
	}

	for want, file := range map[string]string{
		"its owner alone":  credentials(t, "bot:x", 0o644),
		"want one line":    credentials(t, "a\nb", 0o600),
		"want one line, u": credentials(t, "", 0o600),
		"no such file":     filepath.Join(t.TempDir(), "none"),
	} {
		if _, err := newFollower(origin, file).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error containing %q", err, want)
		}
	}
}

func TestRemotes(t *testing.T) {
	for _, tc := range []struct{ remote, credentials, want string }{
		{"/srv/policy.git", "", ""},
		{"policy", "", ""},
		{"./a:b", "", ""},
		{"file:///srv/policy.git", "", ""},
		{"https://git.acme.example/policy.git", "file", ""},
		{"http://localhost:3000/policy.git", "file", ""},
		{"http://[::1]:3000/policy.git", "file", ""},
		{"http://git.acme.example/policy.git", "", ""},

		{"", "", "empty"},
		{"-oProxyCommand=x", "", "begins with a dash"},
		{"--upload-pack=x", "", "begins with a dash"},
		{"ssh://git@git.acme.example/policy.git", "", "ssh are not supported"},
		{"git@git.acme.example:policy.git", "", "ssh are not supported"},
		{"git.acme.example:policy.git", "", "ssh are not supported"},
		{"git://git.acme.example/policy.git", "", `scheme "git"`},
		{"ext::sh -c x", "", "space or control"},
		{"ext::x", "", "ssh are not supported"},
		{"ftp://x/y", "", `scheme "ftp"`},
		{"HTTPS://x/y", "", `scheme "HTTPS"`},
		{"file://host/x", "", "is not file:///path"},
		{"file:///x?y", "", "is not file:///path"},
		{"/srv/policy.git", "file", "credentials are for http"},
		{"https://user:pass@git.acme.example/x", "", "remote holds credentials"},
		{"https://token@git.acme.example/x", "", "remote holds credentials"},
		{"https://user:pa ss@x/", "", "space or control"},
		{"https://u:p%zz@x/y", "", "remote is not a URL"},
		{"https:///x", "", "names no host"},
		{"https://x/y?z=1", "", "query or fragment"},
		{"https://x/y#z", "", "query or fragment"},
		{"http://git.acme.example/x", "file", "plain http"},
		{"https://x/\ny", "", "space or control"},
	} {
		_, err := parseRemote(tc.remote, tc.credentials, nil, usualLimits)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q, credentials %q: got %v, want %q", tc.remote, tc.credentials, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "pass") {
			t.Errorf("%q: the error shows the password: %v", tc.remote, err)
		}
	}
	for _, branch := range []string{"", "-x", "a..b", "a b", "a\x00", "refs/../x", "x.lock", "a~1"} {
		if _, err := New(Config{Remote: "/x", Branch: branch, Dir: t.TempDir()}); err == nil {
			t.Errorf("branch %q is taken", branch)
		}
	}
}

func FuzzPack(f *testing.F) {
	_, objects := small(f)
	good := makePack(objects...)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(makePackOf(1<<32-1, objects...))
	f.Add(makePack())
	_, base := rawID(f, "blob", objects[2].data)
	n := byte(len(objects[2].data))
	f.Add(makePack(objects[2], packed{kind: plumbing.REFDeltaObject, data: []byte{n, 4, 0x90, 4}, base: base}))
	f.Add(makePack(objects[2], packed{kind: plumbing.OFSDeltaObject, data: []byte{n, 1, 1, 'x'}, base: []byte{24}}))
	f.Add(makePack(packed{kind: plumbing.BlobObject, data: []byte("x"), claim: 1 << 40}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, pack []byte) {
		err := storePack(t.Context(), dir, bytes.NewReader(pack), limits{pack: 1 << 20, inflated: 4 << 20, chain: 2 << 20})
		if left, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", temporary+"*")); len(left) > 0 {
			t.Errorf("files left: %q", left)
		}
		if err == nil && !bytes.HasPrefix(pack, []byte("PACK\x00\x00\x00\x02")) {
			t.Error("took what does not begin as a pack does")
		}
	})
}
