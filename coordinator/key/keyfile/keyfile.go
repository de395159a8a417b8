// Package keyfile keeps a program's private key in a file that tells when it is
// damaged. Programs read their key at every start and make it at the first.
//
// # Format
//
//	idkey:…\n    the private key
//	idpub:…\n    its public half
//
// or wgkey: and wgpub:. The texts are those of package key. One character more or
// less makes another private key, as good as the first and known to nobody; the
// second line is there to notice. A file with the first line alone, which need not
// end, is one that a person made: it is read, with nothing to compare.
//
// # Making
//
// Where there is no file, one is made with a new key: whole, synced, with mode
// 0600, and only if there is still none. Of programs that start at once one makes
// it and all read it. The directory is made, with mode 0700.
//
// # What a reader rejects
//
// By name, without showing what is in it, and leaving it as it is, since a new key
// in its place would be another identity:
//
//   - a file that is not regular, or that anybody but its owner may read or write
//   - more than 512 bytes
//   - a line that is not the text of its key; white space; a third line
//   - a second line that does not end
//   - lines that disagree
//
// A WireGuard key has five bits that X25519 overrides. Where only they changed the
// lines agree, and the key is the same for every purpose.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/writmesh/writ/coordinator/key"
)

// maxSize is several times the two lines.
const maxSize = 512

// Identity is the identity key in the file at path, made if there is none.
func Identity(path string) (key.IdentityPrivate, error) { return load(path, identityKind) }

// WG is the WireGuard key in the file at path, made if there is none.
func WG(path string) (key.WGPrivate, error) { return load(path, wgKind) }

// A kind of key, as its file has it.
type kind[K interface{ Secret() string }] struct {
	make    func() K
	private func(string) (K, error) // reads the first line
	public  func(K) string          // the second line
	check   func(string) error      // says what is wrong with a second line
}

var identityKind = kind[key.IdentityPrivate]{
	make: key.NewIdentity, private: key.ParseIdentityPrivate,
	public: func(k key.IdentityPrivate) string { return k.Public().String() },
	check:  func(s string) error { _, err := key.ParseIdentityPublic(s); return err },
}

var wgKind = kind[key.WGPrivate]{
	make: key.NewWG, private: key.ParseWGPrivate,
	public: func(k key.WGPrivate) string { return k.Public().String() },
	check:  func(s string) error { _, err := key.ParseWGPublic(s); return err },
}

func load[K interface{ Secret() string }](path string, t kind[K]) (k K, err error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path, t.encode(t.make())); err != nil && !errors.Is(err, fs.ErrExist) {
			return k, fmt.Errorf("make key file %s: %w", path, err)
		}
		b, err = read(path) // another process may have been first
	}
	if err != nil {
		return k, fmt.Errorf("read key file: %w", err)
	}
	if k, err = t.decode(b); err != nil {
		return k, fmt.Errorf("read key file: %s is damaged: %w", path, err)
	}
	return k, nil
}

func (t kind[K]) encode(k K) string { return k.Secret() + "\n" + t.public(k) + "\n" }

func (t kind[K]) decode(b []byte) (none K, err error) {
	if len(b) > maxSize {
		return none, fmt.Errorf("more than %d bytes", maxSize)
	}
	first, second, _ := strings.Cut(string(b), "\n")
	k, err := t.private(first)
	switch {
	case err != nil:
		return none, fmt.Errorf("line 1: %w", err)
	case second == "":
		return k, nil
	}
	second, rest, ended := strings.Cut(second, "\n")
	switch err := t.check(second); {
	case err != nil:
		return none, fmt.Errorf("line 2: %w", err)
	case !ended:
		return none, errors.New("line 2 does not end")
	case rest != "":
		return none, errors.New("more than two lines")
	case second != t.public(k):
		return none, errors.New("its two lines disagree")
	}
	return k, nil
}

// read reads a file that only its owner may.
func read(path string) ([]byte, error) {
	// Without O_NONBLOCK, to open a pipe would be to wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (mode %v)", path, info.Mode())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): chmod 600 it", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// create writes a file that must not exist, whole and synced, or none.
func create(path, content string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link replaces nothing.
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
