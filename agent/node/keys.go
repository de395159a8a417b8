package node

import (
	"path/filepath"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/keyfile"
)

// The files of a node's private keys, in its state directory. They have mode
// 0600 and never leave the machine.
const (
	IdentityFile = "identity.key"
	wgFile       = "wireguard.key"
)

// Identity is the node's identity key, made at its first use.
func Identity(dir string) (key.IdentityPrivate, error) {
	return keyfile.Identity(filepath.Join(dir, IdentityFile))
}

// wireGuard is the node's WireGuard key, made at its first use.
func wireGuard(dir string) (key.WGPrivate, error) {
	return keyfile.WG(filepath.Join(dir, wgFile))
}
