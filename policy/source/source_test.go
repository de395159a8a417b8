package source

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/policy/source/sourcetest"
)

var sample = map[string]string{
	"network.cue":         "package network\n",
	"teams/a/groups.cue":  "package network\n// a\n",
	"teams/a/rules.cue":   "",
	"teams/b.cue":         "package network\n// \u00e9\u4f60\n",
	"teams-extra/c.cue":   "x",
	"guard/approval.rego": "package guard\n",
	".github/ci.yml":      "on: push\n",
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for p, data := range files {
		full := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func openTree(t *testing.T, dir, rev string) Tree {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := r.Tree(rev)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// The same files from a directory and from a commit are the same tree, which
// behaves as a file system and hashes as Go's own module hash does.
func TestDirectoryAndCommitAreAlike(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, sample)
	if err := os.MkdirAll(filepath.Join(dir, "empty", "deeper"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{".git/HEAD": "not part of the tree"})
	fromDir, err := Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	repo := sourcetest.New(t)
	id := repo.Commit(sourcetest.Commit{Files: sample, Message: "first\n"})
	fromGit := openTree(t, repo.Dir, "main")

	names := slices.Sorted(maps.Keys(sample))
	for _, tree := range []Tree{fromDir, fromGit} {
		if err := fstest.TestFS(tree.FS, names...); err != nil {
			t.Errorf("%s: %v", tree.Label, err)
		}
		var got []string
		fs.WalkDir(tree.FS, ".", func(p string, d fs.DirEntry, err error) error {
			if !d.IsDir() {
				got = append(got, p)
				if data, err := fs.ReadFile(tree.FS, p); err != nil || string(data) != sample[p] {
					t.Errorf("%s: %s: got %q, %v; want %q", tree.Label, p, data, err, sample[p])
				}
			}
			return nil
		})
		if slices.Sort(got); !slices.Equal(got, names) {
			t.Errorf("%s: got files %q, want %q", tree.Label, got, names)
		}
		h, err := SourceHash(tree.FS)
		if err != nil {
			t.Fatal(err)
		}
		h1, err := dirhash.Hash1(names, func(p string) (io.ReadCloser, error) { return tree.FS.Open(p) })
		if err != nil {
			t.Fatal(err)
		}
		if got := "h1:" + base64.StdEncoding.EncodeToString(h[:]); got != h1 {
			t.Errorf("%s: source hash: got %s, want dirhash's %s", tree.Label, got, h1)
		}
	}
	if fromDir.Commit != nil || fromDir.Label != dir {
		t.Errorf("directory: got commit %v, label %q; want none, %q", fromDir.Commit, fromDir.Label, dir)
	}
	c := fromGit.Commit
	if c == nil || c.Hash != id || c.Author != "Alice Doe" || c.Email != "alice@acme.example" ||
		c.Message != "first\n" || c.When.Unix() != 1767225600 || len(c.Parents) != 0 {
		t.Errorf("commit: got %+v", c)
	}
	if want := "main@" + id[:7]; fromGit.Label != want {
		t.Errorf("label: got %q, want %q", fromGit.Label, want)
	}
}

// A tree is a value: neither a change of the directory nor of what ReadFile
// returned reaches it.
func TestTreeDoesNotChange(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"a.cue": "one"})
	tree, err := Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := SourceHash(tree.FS)
	writeFiles(t, dir, map[string]string{"a.cue": "two", "b.cue": "three"})
	data, _ := fs.ReadFile(tree.FS, "a.cue")
	data[0] = 'X'
	if after, _ := SourceHash(tree.FS); after != before {
		t.Errorf("source hash went from %s to %s", before, after)
	}
}

func wantRefusal(t *testing.T, err error, path, reason string) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal of %q for %q", err, path, reason)
	}
	if r.Path != path || !strings.Contains(r.Reason, reason) {
		t.Errorf("got %q: %s; want %q: %s", r.Path, r.Reason, path, reason)
	}
}

// Names and contents are refused alike on disk and in Git.
func TestRefusedInBoth(t *testing.T) {
	deep := strings.Repeat("d/", MaxDepth) + "x.cue"
	many := make(map[string]string)
	for i := range MaxFiles + 1 {
		many[fmt.Sprintf("f%05d.json", i)] = ""
	}
	big := make(map[string]string)
	block := strings.Repeat("x", MaxFile)
	for i := range MaxTotal/MaxFile + 1 {
		big[fmt.Sprintf("%d.json", i)] = block
	}
	for name, tc := range map[string]struct {
		files        map[string]string
		path, reason string
	}{
		"case_twins":     {map[string]string{"Rules.cue": "", "rules.cue": ""}, "rules.cue", `collides with "Rules.cue"`},
		"case_twin_dirs": {map[string]string{"a/x": "", "A/y": ""}, "a", `collides with "A"`},
		"kelvin_sign":    {map[string]string{"k.cue": "", "\u212a.cue": ""}, "\u212a.cue", `collides with "k.cue"`},
		"normalization":  {map[string]string{"e\u0301.cue": "", "\u00e9.cue": ""}, "\u00e9.cue", "collides with"},
		"not_utf8":       {map[string]string{"a\xff.cue": ""}, "a\xff.cue", "not UTF-8"},
		"bidi":           {map[string]string{"a\u202eeuc.x": ""}, "a\u202eeuc.x", "formatting character U+202E"},
		"zero_width":     {map[string]string{".g\u200bit": ""}, ".g\u200bit", "formatting character U+200B"},
		"bom":            {map[string]string{"\ufeffa": ""}, "\ufeffa", "formatting character U+FEFF"},
		"newline":        {map[string]string{"a\nb": ""}, "a\nb", "control"},
		"backslash":      {map[string]string{`a\b`: ""}, `a\b`, "backslash"},
		"git_upper":      {map[string]string{".GIT": ""}, ".GIT", "means .git"},
		"git_dot":        {map[string]string{".git.": ""}, ".git.", "means .git"},
		"git_stream":     {map[string]string{".git::$INDEX_ALLOCATION": ""}, ".git::$INDEX_ALLOCATION", "means .git"},
		"git_short":      {map[string]string{"GIT~1": ""}, "GIT~1", "means .git"},
		"too_deep":       {map[string]string{deep: ""}, deep[:len(deep)-len("/x.cue")] + "/x.cue", "more than 32 names"},
		"lfs_pointer":    {map[string]string{"big.json": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"}, "big.json", "Git LFS"},
		"too_large":      {map[string]string{"a.json": block + "x"}, "a.json", "larger than 8388608"},
		"too_many":       {many, fmt.Sprintf("f%05d.json", MaxFiles), "more than 10000 files"},
		"too_much":       {big, fmt.Sprintf("%d.json", MaxTotal/MaxFile), "altogether"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("directory", func(t *testing.T) {
				dir := t.TempDir()
				writeFiles(t, dir, tc.files)
				_, err := Dir(dir)
				wantRefusal(t, err, tc.path, tc.reason)
			})
			t.Run("commit", func(t *testing.T) {
				repo := sourcetest.New(t)
				repo.Commit(sourcetest.Commit{Files: tc.files})
				r, err := Open(repo.Dir)
				if err != nil {
					t.Fatal(err)
				}
				_, err = r.Tree("main")
				wantRefusal(t, err, tc.path, tc.reason)
			})
		})
	}
}

// What fits exactly is taken.
func TestLimitsAreReached(t *testing.T) {
	files := map[string]string{
		strings.Repeat("d/", MaxDepth-1) + "x.cue": "",
		strings.Repeat("n", MaxName):               "",
	}
	for i := range MaxTotal / MaxFile {
		files[fmt.Sprintf("%d.json", i)] = strings.Repeat("x", MaxFile)
	}
	dir := t.TempDir()
	writeFiles(t, dir, files)
	if _, err := Dir(dir); err != nil {
		t.Errorf("directory: %v", err)
	}
	repo := sourcetest.New(t)
	repo.Commit(sourcetest.Commit{Files: files})
	openTree(t, repo.Dir, "main")
}

func TestRefusedOnDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		make   func(path string) error
		path   string
		reason string
	}{
		"symlink":        {func(p string) error { return os.Symlink("/etc/shadow", p) }, "x", "symbolic link"},
		"symlink_to_dir": {func(p string) error { return os.Symlink(".", p) }, "x", "symbolic link"},
		"pipe":           {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "x", "named pipe"},
		"submodule":      {func(p string) error { return os.MkdirAll(filepath.Join(p, ".git"), 0o755) }, "x", "nested repository"},
		"submodule_file": {func(p string) error {
			return errors.Join(os.Mkdir(p, 0o755), os.WriteFile(filepath.Join(p, ".git"), []byte("gitdir: y"), 0o644))
		}, "x", "nested repository"},
		"socket": {func(p string) error {
			l, err := net.Listen("unix", p)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}, "x", "socket"},
	} {
		t.Run(name, func(t *testing.T) {
			// A socket's path is short: 104 bytes on some systems.
			dir, err := os.MkdirTemp("", "w")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := tc.make(filepath.Join(dir, "x")); err != nil {
				t.Fatal(err)
			}
			_, err = Dir(dir)
			wantRefusal(t, err, tc.path, tc.reason)
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "w") // its parents can be read by all
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		asNobody(t)
		if _, err := Dir(dir); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "x") {
			t.Errorf("got %v, want permission denied, naming x", err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		if _, err := Dir(filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want it not to exist", err)
		}
	})
}

// asNobody has this goroutine's thread access files as nobody for the rest of the
// test, where it is root, who may read every file.
func asNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		return
	}
	runtime.LockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	})
}

func TestRefusedInCommit(t *testing.T) {
	repo := sourcetest.New(t)
	blob := repo.Object("blob", []byte("x"))
	empty := repo.TreeObject()
	// Each of these trees names the one before it ten times: a few kilobytes
	// that stand for 10^8 directories.
	bomb := empty
	for range 8 {
		var es []sourcetest.Entry
		for i := range 10 {
			es = append(es, sourcetest.Entry{Mode: "40000", Name: fmt.Sprint(i), ID: bomb})
		}
		bomb = repo.TreeObject(es...)
	}
	e := func(mode, name, id string) sourcetest.Entry { return sourcetest.Entry{Mode: mode, Name: name, ID: id} }
	for name, tc := range map[string]struct {
		tree         string
		path, reason string
	}{
		"symlink":        {repo.TreeObject(e("120000", "x", blob)), "x", "symbolic link"},
		"submodule":      {repo.TreeObject(e("160000", "x", blob)), "x", "submodule"},
		"group_writable": {repo.TreeObject(e("100664", "x", blob)), "x", "unknown mode"},
		"device":         {repo.TreeObject(e("20000", "x", blob)), "x", "unknown mode"},
		"padded_mode":    {repo.TreeObject(e("040000", "x", empty)), "x", "unknown mode"},
		"dot_dot":        {repo.TreeObject(e("100644", "..", blob)), "..", "made of dots"},
		"dot":            {repo.TreeObject(e("40000", ".", empty)), ".", "made of dots"},
		"no_name":        {repo.TreeObject(e("100644", "", blob)), "", "made of dots"},
		"slash":          {repo.TreeObject(e("100644", "../x", blob)), "../x", "slash"},
		"dot_git":        {repo.TreeObject(e("40000", ".git", empty)), ".git", "means .git"},
		"same_name":      {repo.TreeObject(e("100644", "x", blob), e("100644", "x", blob)), "x", "collides"},
		"file_and_dir":   {repo.TreeObject(e("100644", "x", blob), e("40000", "x", empty)), "x", "collides"},
		"long_name":      {repo.TreeObject(e("100644", strings.Repeat("n", MaxName+1), blob)), strings.Repeat("n", MaxName+1), "longer than 255"},
		"tree_bomb":      {bomb, "0/8/8/8/0/1/8/2", "more than 10000 directories"},
		"cut_short":      {repo.Object("tree", []byte("100644 x\x00123")), "", "ends within"},
		"no_space":       {repo.Object("tree", []byte("100644\x0012345678901234567890")), "", "without a name"},
	} {
		t.Run(name, func(t *testing.T) {
			repo.Commit(sourcetest.Commit{Branch: name, Parents: []string{}, Tree: tc.tree})
			r, err := Open(repo.Dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Tree(name)
			var ref *Refusal
			if name == "tree_bomb" {
				// Where it stops is of no account, so long as it does.
				if !errors.As(err, &ref) || !strings.Contains(ref.Reason, tc.reason) {
					t.Errorf("got %v, want a refusal for %q", err, tc.reason)
				}
				return
			}
			wantRefusal(t, err, tc.path, tc.reason)
		})
	}
	t.Run("blob_in_place_of_tree", func(t *testing.T) {
		repo.Commit(sourcetest.Commit{Branch: "b", Parents: []string{}, Tree: repo.TreeObject(e("40000", "x", blob))})
		r, _ := Open(repo.Dir)
		if _, err := r.Tree("b"); !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v, want %v", err, ErrDamaged)
		}
	})
}

// The tree of a revision is that of the directory that was opened.
func TestOpenBelowTheTop(t *testing.T) {
	repo := sourcetest.New(t)
	repo.Commit(sourcetest.Commit{Files: map[string]string{"elsewhere/\xff": "not read", "policy/net/a.cue": "a"}})
	top := t.TempDir()
	if err := os.Rename(repo.Dir, filepath.Join(top, ".git")); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(top, "policy", "net")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := openTree(t, sub, "HEAD")
	if data, err := fs.ReadFile(tree.FS, "a.cue"); err != nil || string(data) != "a" {
		t.Errorf("got %q, %v; want a", data, err)
	}
	if err := os.MkdirAll(filepath.Join(top, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := Open(filepath.Join(top, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Tree("HEAD"); err == nil || !strings.Contains(err.Error(), "directory new is not in this commit") {
		t.Errorf("got %v, want it to say that new is not in this commit", err)
	}
}

func TestPlainDirectoryHasNoRevisions(t *testing.T) {
	r, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if r.HasRevisions() {
		t.Error("a temporary directory is in a Git repository")
	}
	if _, err := r.Tree("HEAD"); !errors.Is(err, ErrNoRepository) {
		t.Errorf("got %v, want %v", err, ErrNoRepository)
	}
}

// Any flipped byte of a stored object is noticed: the tree comes back whole or
// not at all.
func TestDamageIsNoticed(t *testing.T) {
	repo := sourcetest.New(t)
	repo.Commit(sourcetest.Commit{Files: map[string]string{"a.cue": "package network\n", "d/b.cue": "b"}})
	want, _ := SourceHash(openTree(t, repo.Dir, "main").FS)
	var damaged int
	objects, err := filepath.Glob(filepath.Join(repo.Dir, "objects", "??", "*"))
	if err != nil || len(objects) != 5 {
		t.Fatalf("got objects %q, %v; want 5", objects, err)
	}
	for _, path := range objects {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o600)
		for i := range good {
			bad := slices.Clone(good)
			bad[i] ^= 0x41
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Open(repo.Dir)
			if err != nil {
				t.Fatal(err)
			}
			tree, err := r.Tree("main")
			if err != nil {
				damaged++
				continue
			}
			if got, _ := SourceHash(tree.FS); got != want {
				t.Fatalf("%s, byte %d flipped: got another tree", path, i)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if damaged == 0 {
		t.Error("no damage was noticed")
	}
	t.Run("missing", func(t *testing.T) {
		for _, path := range objects {
			os.Remove(path)
		}
		r, err := Open(repo.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Raw(repo.Head("main")); !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v, want %v", err, ErrDamaged)
		}
	})
}

func FuzzTreeObject(f *testing.F) {
	f.Add([]byte("100644 a.cue\x0012345678901234567890"))
	f.Add([]byte("40000 d\x0012345678901234567890100644 \xff\x0012345678901234567890"))
	f.Add([]byte("120000 ..\x001234567890123456789"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		es, err := parseTree(data)
		if err != nil {
			return
		}
		n := 0
		c := newCollector()
		for _, e := range es {
			n += len(e.mode) + 1 + len(e.name) + 1 + 20
			if full, err := c.enter("", e.name); err == nil && !fs.ValidPath(full) {
				t.Errorf("name %q is accepted and no path of an fs.FS", e.name)
			}
		}
		if n != len(data) {
			t.Errorf("entries have %d bytes, the object %d", n, len(data))
		}
	})
}
