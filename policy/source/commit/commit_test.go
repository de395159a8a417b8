package commit

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	treeLine   = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
	parentLine = "parent 0123456789abcdef0123456789abcdef01234567\n"
	author     = "author Alice Doe <alice@acme.example> 1767225600 +0100\n"
	committer  = "committer Bob <bob@acme.example> 1767225601 +0000\n"
	sigLines   = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n"
)

func TestParse(t *testing.T) {
	raw := []byte(treeLine + parentLine + author + committer + sigLines + "change-id xyz\n\nsubject\n\nbody\n")
	c, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Author, (Ident{"Alice Doe", "alice@acme.example", time.Unix(1767225600, 0).UTC()}); got != want {
		t.Errorf("author: got %v, want %v", got, want)
	}
	if got, want := c.Committer.Email, "bob@acme.example"; got != want {
		t.Errorf("committer: got %q, want %q", got, want)
	}
	if len(c.Parents) != 1 || c.Message != "subject\n\nbody\n" || len(c.Headers) != 2 {
		t.Errorf("got %+v", c)
	}
	payload, sig, err := Signature(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := treeLine + parentLine + author + committer + "change-id xyz\n\nsubject\n\nbody\n"; string(payload) != want {
		t.Errorf("payload: got %q, want %q", payload, want)
	}
	if want := "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"; sig != want {
		t.Errorf("signature: got %q, want %q", sig, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const end = "\nm\n"
	for name, tc := range map[string]struct{ raw, want string }{
		"empty":                  {"", "no empty line"},
		"no_blank_line":          {treeLine + author + committer, "no empty line"},
		"nul":                    {treeLine + author + committer + "\nm\x00", "NUL"},
		"latin1_message":         {treeLine + author + committer + "\nm\xe9", "not UTF-8"},
		"latin1_author":          {treeLine + "author J\xf6 <a@b> 1 +0000\n" + committer + end, "not UTF-8"},
		"two_trees":              {treeLine + treeLine + author + committer + end, "no author line"},
		"tree_after":             {treeLine + author + committer + treeLine + end, "repeated or out of order"},
		"upper_tree":             {strings.ToUpper(treeLine[:4]) + treeLine[4:] + author + committer + end, "first line"},
		"short_tree":             {"tree 4b825dc6\n" + author + committer + end, "first line"},
		"sha256_tree":            {"tree " + strings.Repeat("a", 64) + "\n" + author + committer + end, "first line"},
		"parent_after_author":    {treeLine + author + parentLine + committer + end, "no committer line"},
		"bad_parent":             {treeLine + "parent zz\n" + author + committer + end, "parent is not"},
		"many_parents":           {treeLine + strings.Repeat(parentLine, MaxParents+1) + author + committer + end, "more than 64 parents"},
		"two_authors":            {treeLine + author + author + committer + end, "no committer line"},
		"two_committers":         {treeLine + author + committer + committer + end, "repeated or out of order"},
		"no_committer":           {treeLine + author + end, "no committer line"},
		"no_email":               {treeLine + "author A 1 +0000\n" + committer + end, "no name and e-mail"},
		"two_emails":             {treeLine + "author A <a@b> <c@d> 1 +0000\n" + committer + end, "not seconds"},
		"bracket_in_email":       {treeLine + "author A <a@<b> 1 +0000\n" + committer + end, "angle bracket"},
		"negative_time":          {treeLine + "author A <a@b> -1 +0000\n" + committer + end, "not seconds"},
		"zero_led_time":          {treeLine + "author A <a@b> 01 +0000\n" + committer + end, "not seconds"},
		"far_time":               {treeLine + "author A <a@b> 253402300800 +0000\n" + committer + end, "not seconds"},
		"overflow_time":          {treeLine + "author A <a@b> 99999999999999999999 +0000\n" + committer + end, "not seconds"},
		"no_zone":                {treeLine + "author A <a@b> 1\n" + committer + end, "no time and zone"},
		"bad_zone":               {treeLine + "author A <a@b> 1 0000\n" + committer + end, "zone"},
		"two_signatures":         {treeLine + author + committer + sigLines + sigLines + end, "gpgsig twice"},
		"sha256_signature":       {treeLine + author + committer + "gpgsig-sha256 x\n" + end, "gpgsig-sha256 is not supported"},
		"signature_first":        {sigLines + treeLine + author + committer + end, "first line"},
		"latin1_encoding":        {treeLine + author + committer + "encoding ISO-8859-1\n" + end, "only UTF-8"},
		"continuation_first":     {" x\n" + treeLine + author + committer + end, "continuation line"},
		"continued_author":       {treeLine + author + " x\n" + committer + end, "author is continued"},
		"header_without_space":   {treeLine + author + committer + "mergetag\n" + end, "without a name"},
		"carriage_return":        {treeLine + author + committer + "x y\r\n" + end, "control character 0xd"},
		"escape_in_name":         {treeLine + "author A\x1b[2J <a@b> 1 +0000\n" + committer + end, "control character 0x1b"},
		"many_headers":           {treeLine + author + committer + strings.Repeat("a b\n", MaxHeaders+1) + end, "more than 128"},
		"long":                   {treeLine + author + committer + "\n" + strings.Repeat("m", MaxSize), "the limit is"},
		"signature_header_space": {treeLine + author + committer + "gpgsigx y\n" + end, "gpgsigx is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.raw))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error containing %q", err, tc.want)
			}
			if _, _, err2 := Signature([]byte(tc.raw)); err2 == nil {
				t.Error("Signature accepts what Parse refuses")
			}
		})
	}
}

// Git's own name for the empty tree and blob, which every Git knows, and what
// go-git computes for a commit.
func TestID(t *testing.T) {
	for _, tc := range []struct{ kind, content, want string }{
		{"tree", "", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"},
		{"blob", "", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
		{"blob", "hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"},
		{"commit", "x", plumbing.ComputeHash(plumbing.CommitObject, []byte("x")).String()},
	} {
		if got, err := ID(tc.kind, []byte(tc.content)); err != nil || got != tc.want {
			t.Errorf("ID(%s, %q): got %s, %v; want %s", tc.kind, tc.content, got, err, tc.want)
		}
	}
}

// A commit with a signature, read back by go-git and by Git, is the same commit.
func TestSignAsGitStoresIt(t *testing.T) {
	raw := []byte(treeLine + parentLine + author + committer + "\nsubject\n")
	const armored = "-----BEGIN SSH SIGNATURE-----\nAAAA\nBBBB\n-----END SSH SIGNATURE-----\n"
	signed, err := Sign(raw, armored)
	if err != nil {
		t.Fatal(err)
	}
	payload, sig, err := Signature(signed)
	if err != nil || !bytes.Equal(payload, raw) || sig != armored {
		t.Fatalf("got %q, %q, %v; want the commit and the signature back", payload, sig, err)
	}
	if _, err := Sign(signed, armored); err == nil {
		t.Error("signed twice; want an error")
	}
	mem := &plumbing.MemoryObject{}
	mem.SetType(plumbing.CommitObject)
	mem.Write(signed)
	c := &object.Commit{}
	if err := c.Decode(mem); err != nil {
		t.Fatal(err)
	}
	if c.PGPSignature != armored || c.Message != "subject\n" {
		t.Errorf("go-git reads signature %q, message %q; want %q, %q", c.PGPSignature, c.Message, armored, "subject\n")
	}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed: not compared with git hash-object")
	}
	cmd := exec.Command(git, "hash-object", "-t", "commit", "--stdin")
	cmd.Stdin, cmd.Dir = bytes.NewReader(signed), t.TempDir()
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git hash-object: %v: %s", err, out)
	}
	if id, err := ID("commit", signed); err != nil || id != strings.TrimSpace(string(out)) {
		t.Errorf("got id %s, %v; want git's %s", id, err, out)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(treeLine + author + committer + "\nm\n"))
	f.Add([]byte(treeLine + parentLine + parentLine + author + committer + sigLines + "\nm\n"))
	f.Add([]byte(treeLine + author + committer + sigLines + sigLines + "\nm\n"))
	f.Add([]byte(treeLine + author + committer + "mergetag object x\n type commit\n \n tag\nencoding UTF-8\n\n"))
	f.Add([]byte("tree "))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree, parents, linksErr := Links(raw)
		c, err := Parse(raw)
		if err != nil {
			return
		}
		// What Parse accepts, the looser reader and go-git read alike.
		if linksErr != nil || tree != c.Tree || strings.Join(parents, " ") != strings.Join(c.Parents, " ") {
			t.Fatalf("Links: %s %v %v; Parse: %s %v", tree, parents, linksErr, c.Tree, c.Parents)
		}
		mem := &plumbing.MemoryObject{}
		mem.SetType(plumbing.CommitObject)
		mem.Write(raw)
		g := &object.Commit{}
		if err := g.Decode(mem); err != nil {
			t.Fatalf("go-git refuses what Parse accepts: %v", err)
		}
		if g.TreeHash.String() != c.Tree || len(g.ParentHashes) != len(c.Parents) {
			t.Fatalf("go-git: tree %s, %d parents; Parse: %s, %d", g.TreeHash, len(g.ParentHashes), c.Tree, len(c.Parents))
		}
		payload, sig, err := Signature(raw)
		if err != nil {
			t.Fatalf("Signature refuses what Parse accepts: %v", err)
		}
		if sig == "" {
			if !bytes.Equal(payload, raw) {
				t.Fatal("payload of an unsigned commit differs from it")
			}
			return
		}
		if _, again, err := Signature(payload); err != nil || again != "" {
			t.Fatalf("payload holds a signature still, or is refused: %q, %v", again, err)
		}
	})
}
