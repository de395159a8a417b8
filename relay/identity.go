package main

import (
	"path/filepath"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/keyfile"
)

// keyFile is the relay's identity key, under the state directory.
const keyFile = "relay.key"

// loadIdentity reads the relay's identity key, or makes it if there is none. A
// key that others can read, or that is damaged, is an error: a new key in its
// place would be one that no policy names.
func loadIdentity(dir string) (key.IdentityPrivate, error) {
	return keyfile.Identity(filepath.Join(dir, keyFile))
}
