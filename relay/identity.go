package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
)

// keyFile is the relay's identity key, under the state directory: its text and
// a newline.
const keyFile = "relay.key"

// loadIdentity reads the relay's identity key, or makes it if there is none. A
// key that others can read, or that is damaged, is an error: a new key in its
// place would be one that no policy names.
func loadIdentity(dir string) (id key.IdentityPrivate, err error) {
	name := filepath.Join(dir, keyFile)
	id, err = readIdentity(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return id, fmt.Errorf("make state directory: %w", err)
	}
	if err := writeIdentity(dir, name, key.NewIdentity()); err != nil && !errors.Is(err, fs.ErrExist) {
		return id, fmt.Errorf("make identity key: %w", err)
	}
	// Where two start at once, one has made the key and both read it.
	return readIdentity(name)
}

func readIdentity(name string) (id key.IdentityPrivate, err error) {
	f, err := os.Open(name)
	if err != nil {
		return id, fmt.Errorf("read identity key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return id, fmt.Errorf("read identity key: %w", err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return id, fmt.Errorf("read identity key: %s has mode %v, want a file that only its owner may read (0600)", name, st.Mode())
	}
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return id, fmt.Errorf("read identity key: %w", err)
	}
	text, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return id, fmt.Errorf("read identity key: %s is damaged: it does not end with a line", name)
	}
	if id, err = key.ParseIdentityPrivate(text); err != nil {
		return id, fmt.Errorf("read identity key: %s is damaged: %w", name, err)
	}
	return id, nil
}

// writeIdentity creates name whole or not at all, and never replaces it.
func writeIdentity(dir, name string, id key.IdentityPrivate) error {
	f, err := os.CreateTemp(dir, keyFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(id.Secret() + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
