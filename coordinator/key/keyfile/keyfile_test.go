package keyfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
)

func TestMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	idPath, wgPath := filepath.Join(dir, "identity.key"), filepath.Join(dir, "wireguard.key")
	id, err := Identity(idPath)
	if err != nil {
		t.Fatal(err)
	}
	wg, err := WG(wgPath)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		idPath: id.Secret() + "\n" + id.Public().String() + "\n",
		wgPath: wg.Secret() + "\n" + wg.Public().String() + "\n",
	} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: got something else than the two lines of the key given, %v", path, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: got mode %v, %v, want -rw-------", path, info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: got %v, %v, want mode 0700", info.Mode(), err)
	}
	if again, err := Identity(idPath); err != nil || !again.Equal(id) {
		t.Errorf("read again: another identity, %v", err)
	}
	if again, err := WG(wgPath); err != nil || !again.Equal(wg) {
		t.Errorf("read again: another WireGuard key, %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v, want the two files alone", entries, err)
	}
}

// Of many that start at once one makes the key and all have it.
func TestMadeByManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	var got [8]key.IdentityPrivate
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			var err error
			if got[i], err = Identity(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range got {
		if !got[i].Equal(got[0]) {
			t.Errorf("reader %d has another key than reader 0", i)
		}
	}
}

// Any byte of a file may become any other: the file is refused, or its key is the
// one it was.
func TestEveryByteChanged(t *testing.T) {
	id, wg := key.NewIdentity(), key.NewWG()
	idFile, wgFile := []byte(identityKind.encode(id)), []byte(wgKind.encode(wg))
	disagree := 0
	for i := range idFile {
		for c := range 256 {
			b := bytes.Clone(idFile)
			if b[i] = byte(c); bytes.Equal(b, idFile) {
				continue
			}
			k, err := identityKind.decode(b)
			if err == nil {
				t.Fatalf("identity key: byte %d changed from %q to %q is not noticed", i, idFile[i], byte(c))
			}
			if !k.Equal(key.IdentityPrivate{}) {
				t.Fatalf("identity key: byte %d changed: a key beside the error %v", i, err)
			}
			if strings.Contains(err.Error(), "disagree") {
				disagree++
			}
		}
	}
	// 51 whole characters of the private key have 31 valid others each.
	if disagree < 51*31 {
		t.Errorf("got %d files whose lines disagree, want %d at least", disagree, 51*31)
	}
	same := 0
	for i := range wgFile {
		for c := range 256 {
			b := bytes.Clone(wgFile)
			if b[i] = byte(c); bytes.Equal(b, wgFile) {
				continue
			}
			k, err := wgKind.decode(b)
			if err != nil {
				continue
			}
			if !k.Public().Equal(wg.Public()) {
				t.Fatalf("WireGuard key: byte %d changed from %q to %q gives another key", i, wgFile[i], byte(c))
			}
			same++
		}
	}
	// Three bits lie together in the first bytes, two in the last; a character
	// holds five bits.
	if same > 16 {
		t.Errorf("got %d changes of a WireGuard key that nobody notices, want at most the overridden bits", same)
	}
}

// A file that was cut short anywhere is refused, or has its key still.
func TestCutShort(t *testing.T) {
	id := key.NewIdentity()
	file := identityKind.encode(id)
	first := strings.IndexByte(file, '\n')
	for n := range len(file) {
		got, err := identityKind.decode([]byte(file[:n]))
		if whole := n == first || n == first+1; whole && (err != nil || !got.Equal(id)) {
			t.Errorf("%d bytes, the first line: got %v, want the key", n, err)
		} else if !whole && err == nil {
			t.Errorf("%d bytes of %d: got no error", n, len(file))
		}
	}
}

// What cannot be used is an error that names the file, and stays as it is.
func TestRefused(t *testing.T) {
	id, other := key.NewIdentity(), key.NewIdentity()
	good := id.Secret() + "\n"
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"readable by the group", good, 0o640, "is open to others (mode 0640): chmod 600 it"},
		{"readable by all", good, 0o604, "is open to others (mode 0604): chmod 600 it"},
		{"writable by all", good, 0o602, "is open to others (mode 0602): chmod 600 it"},
		{"empty", "", 0o600, "is damaged: line 1"},
		{"cut short", good[:len(good)-2], 0o600, "is damaged: line 1"},
		{"another kind", key.NewWG().Secret(), 0o600, "is damaged: line 1"},
		{"white space", " " + good, 0o600, "is damaged: line 1"},
		{"carriage return", id.Secret() + "\r\n", 0o600, "is damaged: line 1"},
		{"empty line", good + "\n", 0o600, "is damaged: line 2"},
		{"two private keys", good + good, 0o600, "is damaged: line 2"},
		{"public half of another", good + other.Public().String() + "\n", 0o600, "is damaged: its two lines disagree"},
		{"third line", good + id.Public().String() + "\n\n", 0o600, "is damaged: more than two lines"},
		{"second line cut", good + id.Public().String(), 0o600, "is damaged: line 2 does not end"},
		{"too long", good + strings.Repeat("a", 1<<20), 0o600, "is damaged: more than 512 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.key")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			k, err := Identity(path)
			if err == nil || !strings.Contains(err.Error(), path+" "+c.want) {
				t.Errorf("got %v, want an error with %q that names the file", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), id.Secret()[20:30]) {
				t.Errorf("the error shows the key: %v", err)
			}
			if !k.Equal(key.IdentityPrivate{}) {
				t.Error("got a key beside the error, want none")
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != c.content {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Identity(pipe); err == nil || !strings.Contains(err.Error(), pipe+" is not a regular file") {
		t.Errorf("a pipe: got %v, want an error that says so", err)
	}
	dir := t.TempDir()
	if _, err := Identity(dir); err == nil {
		t.Error("a directory: got no error")
	}
}

// A person may write the key alone, and link to where secrets lie.
func TestMadeByHand(t *testing.T) {
	id := key.NewIdentity()
	for _, content := range []string{id.Secret(), id.Secret() + "\n"} {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(content), 0o400); err != nil {
			t.Fatal(err)
		}
		link := path + ".link"
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if k, err := Identity(link); err != nil || !k.Equal(id) {
			t.Errorf("got %v, want the key of the one line", err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	id, wg := key.NewIdentity(), key.NewWG()
	f.Add([]byte(identityKind.encode(id)))
	f.Add([]byte(wgKind.encode(wg)))
	f.Add([]byte(id.Secret()))
	f.Add([]byte(id.Secret() + "\n" + key.NewIdentity().Public().String() + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := identityKind.decode(b); err == nil {
			exact(t, b, k.Secret(), identityKind.encode(k))
		}
		if k, err := wgKind.decode(b); err == nil {
			exact(t, b, k.Secret(), wgKind.encode(k))
		}
	})
}

// exact fails unless a file that was read is one of the three that say its key.
func exact(t *testing.T, file []byte, line, whole string) {
	t.Helper()
	if s := string(file); s != line && s != line+"\n" && s != whole {
		t.Errorf("got a key from %q, want it only from its line or its two lines", s)
	}
}
