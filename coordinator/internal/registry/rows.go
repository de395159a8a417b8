package registry

import (
	"crypto/ed25519"
	"errors"

	"github.com/writmesh/writ/coordinator/internal/state"
	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

func row(k store.Kind, name string, value []byte) store.Document {
	return store.Document{Ref: store.Ref{Kind: k, Key: name}, Value: value}
}

func rootRow(r state.Root) store.Document {
	return row(store.Root, store.Number(r.Root.Version), r.Doc)
}

func endedRow(doc []byte) store.Document { return row(store.Ended, "newest", doc) }

func admissionRow(log int64, doc []byte) store.Document {
	return row(store.Admission, store.Number(log), doc)
}

// recordRow keeps the identity key beside the record, so that it verifies
// without the admission.
func recordRow(id key.IdentityPublic, doc []byte) store.Document {
	node := id.NodeID()
	return row(store.Record, string(node[:]), append(append([]byte(nil), id.Ed25519()...), doc...))
}

func parseRecordRow(v []byte) (id key.IdentityPublic, doc []byte, err error) {
	if len(v) < ed25519.PublicKeySize {
		return id, nil, errors.New("record without an identity key")
	}
	id, err = key.IdentityPublicFrom(v[:ed25519.PublicKeySize])
	return id, v[ed25519.PublicKeySize:], err
}

func leafRow(l *state.Leaf) store.Document {
	return row(store.Leaf, string(l.Name[:]), append(append([]byte(nil), l.Hash[:]...), l.Leaf.Name...))
}

func parseLeafRow(k string, v []byte) (*state.Leaf, error) {
	l := &state.Leaf{}
	if len(v) <= len(l.Hash) || len(v) > len(l.Hash)+leaf.MaxName {
		return nil, errors.New("leaf record of a wrong length")
	}
	l.Hash = key.Hash(v[:len(l.Hash)])
	l.Leaf.Name = string(v[len(l.Hash):])
	l.Name = leaf.NameHash(l.Leaf.Name)
	if k != string(l.Name[:]) {
		return nil, errors.New("leaf record under another name")
	}
	return l, nil
}

func blobRef(h key.Hash) store.Ref { return store.Ref{Kind: store.Blob, Key: string(h[:])} }

func blobRow(h key.Hash, content []byte) store.Document {
	return store.Document{Ref: blobRef(h), Value: content}
}
