package verify

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/writmesh/writ/policy/source/commit"
)

// maxKeyFile bounds a private key file; one of RSA-16384 has 13 KiB.
const maxKeyFile = 64 << 10

// Sign returns the armored signature over a commit's bytes, which must not have
// one yet.
func Sign(payload []byte, signer ssh.Signer) (string, error) {
	if err := checkKey(signer.PublicKey()); err != nil {
		return "", fmt.Errorf("sign commit: %w", err)
	}
	sig, err := sshsig.Sign(bytes.NewReader(payload), signer, sshsig.HashSHA512, Namespace)
	if err != nil {
		return "", fmt.Errorf("sign commit: %w", err)
	}
	return string(sshsig.Armor(sig)), nil
}

// A Key signs commits.
type Key struct{ signer ssh.Signer }

// NewKey makes a Key of a signer that is strong enough.
func NewKey(signer ssh.Signer) (*Key, error) {
	if err := checkKey(signer.PublicKey()); err != nil {
		return nil, err
	}
	return &Key{signer}, nil
}

// LoadKey reads an unencrypted private key file, as ssh-keygen writes it. A file
// that others may read is refused.
func LoadKey(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("load signing key %s: mode is %s; want a file that its owner alone may read", path, info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("load signing key %s: larger than %d bytes", path, maxKeyFile)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, fmt.Errorf("load signing key %s: it is encrypted, which is not supported", path)
	}
	if err != nil {
		return nil, fmt.Errorf("load signing key %s: %w", path, err)
	}
	k, err := NewKey(signer)
	if err != nil {
		return nil, fmt.Errorf("load signing key %s: %w", path, err)
	}
	return k, nil
}

// Public returns the key as a list of allowed signers wants it: type and base64.
func (k *Key) Public() string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())), "\n")
}

// SignCommit returns the bytes of a commit object with a signature in them.
func (k *Key) SignCommit(raw []byte) ([]byte, error) {
	armored, err := Sign(raw, k.signer)
	if err != nil {
		return nil, err
	}
	return commit.Sign(raw, armored)
}

// Sign signs what it reads; go-git calls it with a commit's bytes when it is
// CommitOptions.Signer.
func (k *Key) Sign(message io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(message, commit.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("sign commit: %w", err)
	}
	if len(raw) > commit.MaxSize {
		return nil, fmt.Errorf("sign commit: larger than %d bytes", commit.MaxSize)
	}
	armored, err := Sign(raw, k.signer)
	return []byte(armored), err
}
