package bolt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/writmesh/writ/coordinator/internal/store"
	"github.com/writmesh/writ/coordinator/internal/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T, dir string) store.Store {
			t.Helper()
			s, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Tamper: func(t *testing.T, s store.Store, r store.Ref, change func([]byte) []byte) {
			t.Helper()
			db := s.(*Store).db
			db.NoSync = true // some hundred times, and nobody pulls the plug
			err := db.Update(func(tx *bbolt.Tx) error {
				b := tx.Bucket([]byte(r.Kind))
				return b.Put([]byte(r.Key), change(append([]byte(nil), b.Get([]byte(r.Key))...)))
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestSecondCoordinatorOnOneDirectoryIsNamed(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = Open(dir)
	if want := "another coordinator runs on this state directory"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestDamagedHeadIsToldAndMovedByWhoSawIt(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	to := store.Head{}
	to.Position.Seq = 5
	if err := s.Apply(ctx, store.Batch{Publish: &store.Swap{To: to}}); err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(headBucket))
		v := append([]byte(nil), b.Get([]byte(headKey))...)
		v[len(v)-1] ^= 1
		return b.Put([]byte(headKey), v)
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Load(ctx)
	if err != nil || c.HeadDamaged == nil || c.Head != (store.Head{}) {
		t.Fatalf("got head %v, damage %v, %v, want it damaged", c.Head, c.HeadDamaged, err)
	}
	if err := s.Apply(ctx, store.Batch{Publish: &store.Swap{From: to, To: to}}); err == nil {
		t.Error("a swap from the head that is damaged: got no error")
	}
	if err := s.Apply(ctx, store.Batch{Publish: &store.Swap{To: to}}); err != nil {
		t.Errorf("a swap by who saw that it is damaged: %v", err)
	}
}

func TestLostRowIsAnError(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	err = s.Apply(ctx, store.Batch{Put: []store.Document{{Ref: store.Ref{Kind: store.Ended, Key: "newest"}, Value: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(store.Ended)).Delete([]byte("newest")) }); err != nil {
		t.Fatal(err)
	}
	want := "0 rows of kind ended are there, 1 were written"
	if _, err := s.Load(ctx); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// A file that bbolt cannot read is an error and no panic, whatever in it is
// wrong; or it reads as it was.
func TestDamagedFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 3000)
	var put []store.Document
	for _, k := range []string{"a", "b", "c"} {
		put = append(put, store.Document{Ref: store.Ref{Kind: store.Leaf, Key: k}, Value: []byte(value)})
	}
	if err := s.Apply(context.Background(), store.Batch{Put: put}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{1, 100, len(whole) / 4, len(whole) / 2, len(whole) - 4096} {
		broken := t.TempDir()
		if err := os.WriteFile(filepath.Join(broken, FileName), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(broken)
		if err != nil {
			continue
		}
		c, err := s.Load(context.Background())
		if err == nil && len(c.Documents)+len(c.Damaged) != 3 {
			t.Errorf("cut to %d of %d bytes: got %d rows, %d damaged, and no error", cut, len(whole), len(c.Documents), len(c.Damaged))
		}
		if err := s.Close(); err != nil {
			t.Logf("cut to %d bytes: close: %v", cut, err)
		}
	}
}
