package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
)

// The files of a node's private keys, in its state directory. They have mode
// 0600 and never leave the machine.
const (
	identityFile = "identity.key"
	wgFile       = "wireguard.key"
)

// Identity is the node's identity key, made at its first use.
func Identity(dir string) (key.IdentityPrivate, error) {
	return keyFile(dir, identityFile, key.NewIdentity, key.ParseIdentityPrivate)
}

// wireGuard is the node's WireGuard key, made at its first use.
func wireGuard(dir string) (key.WGPrivate, error) {
	return keyFile(dir, wgFile, key.NewWG, key.ParseWGPrivate)
}

// keyFile reads a key, or makes one where there is no file. A file that cannot
// be read as a key is an error: a new identity would be another node.
func keyFile[K interface{ Secret() string }](dir, name string, make func() K, parse func(string) (K, error)) (k K, err error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			return k, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
		}
		if k, err = parse(strings.TrimSpace(string(b))); err != nil {
			return k, fmt.Errorf("%s: %w", path, err)
		}
		return k, nil
	case !errors.Is(err, fs.ErrNotExist):
		return k, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return k, err
	}
	k = make()
	return k, create(path, k.Secret()+"\n")
}

// create writes a file that must not exist, whole and synced, or none.
func create(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(content)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp.Name(), path) // fails where another process was first
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
