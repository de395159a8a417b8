// Package bolt keeps a coordinator's rows in one bbolt file: the store of a
// coordinator that is alone.
//
// The file has a bucket for each kind of row, "head" with the head under the key
// "newest" and the number of rows of each kind under "rows", and "quarantine",
// where rows that were damaged lie under KIND/KEY for people to look at. Every
// write is synced before it counts.
//
// The file is locked while it is open: a second coordinator on one state
// directory ends with an error that names it. The pages of bbolt have no
// checksums, and it panics on pages that make no sense; here that is an error. So
// is a kind with fewer or more rows than were written, which is how a page that
// was lost shows.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/writmesh/writ/coordinator/internal/store"
)

// FileName is the store's file in the state directory.
const FileName = "store.db"

const (
	headBucket       = "head"
	headKey          = "newest"
	rowsKey          = "rows"
	quarantineBucket = "quarantine"

	// lockWait is how long Open waits for another process to let go of the file:
	// one that was just killed has, and one that runs is told of soon.
	lockWait = time.Second
)

var (
	headRef = store.Ref{Kind: headBucket, Key: headKey}
	rowsRef = store.Ref{Kind: headBucket, Key: rowsKey}
)

// A Store is an open file.
type Store struct{ db *bbolt.DB }

// Open opens the store of the state directory and makes it if there is none.
func Open(dir string) (s *Store, err error) {
	path := filepath.Join(dir, FileName)
	defer guard(&err, "open "+path)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      lockWait,
		FreelistType: bbolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another coordinator runs on this state directory", path)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, k := range store.Kinds {
			if _, err := tx.CreateBucketIfNotExists([]byte(k)); err != nil {
				return err
			}
		}
		for _, b := range []string{headBucket, quarantineBucket} {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = syncDir(dir) // the file's name is as durable as what is in it
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Join(err, db.Close()))
	}
	return &Store{db}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// guard makes an error of what bbolt panics with, and of the fault of reading a
// file that is shorter than its pages say.
func guard(err *error, what string) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: damaged: %v", what, r)
	}
}

// Close implements store.Store.
func (s *Store) Close() error { return s.db.Close() }

// Apply implements store.Store.
func (s *Store) Apply(ctx context.Context, b store.Batch) (err error) {
	what := "write " + s.db.Path()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := b.Check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(&err, what)
	err = s.db.Update(func(tx *bbolt.Tx) error { return apply(tx, b) })
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func apply(tx *bbolt.Tx, b store.Batch) error {
	if b.Publish != nil {
		if err := swap(tx, *b.Publish); err != nil {
			return err
		}
	}
	n, err := counts(tx)
	if err != nil {
		return err
	}
	remove := func(r store.Ref) error {
		bucket, err := bucketOf(tx, r.Kind)
		if err != nil || bucket.Get([]byte(r.Key)) == nil {
			return err
		}
		n[r.Kind]--
		return bucket.Delete([]byte(r.Key))
	}
	for _, r := range b.Delete {
		if err := remove(r); err != nil {
			return err
		}
	}
	for _, r := range b.Quarantine {
		bucket, err := bucketOf(tx, r.Kind)
		if err != nil {
			return err
		}
		v := append([]byte(nil), bucket.Get([]byte(r.Key))...)
		if err := tx.Bucket([]byte(quarantineBucket)).Put([]byte(string(r.Kind)+"/"+r.Key), v); err != nil {
			return err
		}
		if err := remove(r); err != nil {
			return err
		}
	}
	for _, d := range b.Put {
		bucket, err := bucketOf(tx, d.Kind)
		if err != nil {
			return err
		}
		if bucket.Get([]byte(d.Key)) == nil {
			n[d.Kind]++
		}
		if err := bucket.Put([]byte(d.Key), store.Seal(d.Ref, d.Value)); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(headBucket)).Put([]byte(rowsKey), store.Seal(rowsRef, n.encode()))
}

// rowCounts are how many rows of each kind there are.
type rowCounts map[store.Kind]int64

func (n rowCounts) encode() (out []byte) {
	for _, k := range store.Kinds {
		out = append(out, store.Number(n[k])...)
	}
	return out
}

func counts(tx *bbolt.Tx) (rowCounts, error) {
	n := rowCounts{}
	sealed := tx.Bucket([]byte(headBucket)).Get([]byte(rowsKey))
	if sealed == nil {
		return n, nil
	}
	v, err := store.Unseal(rowsRef, sealed)
	if err != nil {
		return nil, fmt.Errorf("number of rows: %w", err)
	}
	for i, k := range store.Kinds {
		if (i+1)*8 > len(v) {
			break // written before there was this kind
		}
		c, ok := store.ParseNumber(string(v[i*8 : i*8+8]))
		if !ok {
			return nil, errors.New("number of rows: no number")
		}
		n[k] = c
	}
	return n, nil
}

// A damaged head compares equal to nothing but itself: whoever moves it has read
// it by Load, which gives the zero Head with HeadDamaged, and moves it from there.
func swap(tx *bbolt.Tx, s store.Swap) error {
	held, err := head(tx)
	if err == nil && held != s.From || err != nil && s.From != (store.Head{}) {
		return store.ErrConflict
	}
	return tx.Bucket([]byte(headBucket)).Put([]byte(headKey), store.Seal(headRef, s.To.Encode()))
}

func head(tx *bbolt.Tx) (store.Head, error) {
	sealed := tx.Bucket([]byte(headBucket)).Get([]byte(headKey))
	if sealed == nil {
		return store.Head{}, nil
	}
	v, err := store.Unseal(headRef, sealed)
	if err != nil {
		return store.Head{}, err
	}
	return store.ParseHead(v)
}

func bucketOf(tx *bbolt.Tx, k store.Kind) (*bbolt.Bucket, error) {
	b := tx.Bucket([]byte(k))
	if b == nil {
		return nil, fmt.Errorf("unknown kind %q", k)
	}
	return b, nil
}

// Load implements store.Store.
func (s *Store) Load(ctx context.Context) (c store.Contents, err error) {
	what := "read " + s.db.Path()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(&err, what)
	err = s.db.View(func(tx *bbolt.Tx) error {
		c.Head, c.HeadDamaged = head(tx)
		written, err := counts(tx)
		if err != nil {
			return err
		}
		for _, k := range store.Kinds {
			b, err := bucketOf(tx, k)
			if err != nil {
				return err
			}
			found := int64(0)
			err = b.ForEach(func(key, sealed []byte) error {
				found++
				if err := ctx.Err(); err != nil {
					return err
				}
				r := store.Ref{Kind: k, Key: string(key)}
				v, err := store.Unseal(r, sealed)
				if err != nil {
					c.Damaged = append(c.Damaged, store.Damage{Ref: r, Err: err})
					return nil
				}
				c.Documents = append(c.Documents, store.Document{Ref: r, Value: v})
				return nil
			})
			if err == nil && found != written[k] {
				err = fmt.Errorf("%d rows of kind %s are there, %d were written: restore a backup, or begin with a new state directory", found, k, written[k])
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return store.Contents{}, fmt.Errorf("%s: %w", what, err)
	}
	return c, nil
}
