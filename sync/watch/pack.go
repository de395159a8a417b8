package watch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// temporary begins the names of files that are not part of the store yet.
const temporary = "fetch-"

// storePack writes a pack that the remote sends into a store. A pack without
// objects is none.
func storePack(ctx context.Context, dir string, r io.Reader, lim limits) error {
	into := filepath.Join(dir, "objects", "pack")
	if err := os.MkdirAll(into, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(into, temporary+"*.pack")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // once moved, there is no such name
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, lim.pack+1))
	if err != nil {
		return fmt.Errorf("receive pack: %w", err)
	}
	if n > lim.pack {
		return fmt.Errorf("%w: pack is larger than %d bytes", ErrLimit, lim.pack)
	}
	objects, err := inspect(ctx, f, lim)
	if err != nil {
		return fmt.Errorf("inspect pack: %w", err)
	}
	if objects == 0 {
		return nil
	}
	name, err := index(f, into)
	if err != nil {
		return fmt.Errorf("index pack: %w", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// A pack counts once it has its name, so its index has it first.
	if err := os.Rename(f.Name(), filepath.Join(into, name+".pack")); err != nil {
		return err
	}
	return syncDir(into)
}

// inspect walks a pack from its beginning to its end, keeps nothing, and returns
// the number of objects. What it accepts can be indexed within bounds.
func inspect(ctx context.Context, r io.ReadSeeker, lim limits) (objects uint32, err error) {
	defer recovered(&err)
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	s := packfile.NewScanner(r)
	_, objects, err = s.Header()
	if err != nil {
		return 0, err
	}
	if objects > MaxObjects {
		return 0, fmt.Errorf("%w: pack has %d objects; the most is %d", ErrLimit, objects, MaxObjects)
	}
	chains := make(map[int64]int64, objects) // offset -> bytes along the chain that ends there
	var total, byName int64
	for range objects {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		h, err := s.NextObjectHeader()
		if err != nil {
			return 0, err
		}
		if h.Length > MaxObject {
			return 0, fmt.Errorf("%w: object of %d bytes; the most is %d", ErrLimit, h.Length, MaxObject)
		}
		var begin prefix
		n, _, err := s.NextObject(&begin)
		if err != nil {
			return 0, err
		}
		if n != h.Length {
			return 0, fmt.Errorf("object at %d has %d bytes and says %d", h.Offset, n, h.Length)
		}
		size := h.Length
		var chain int64
		switch h.Type {
		case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
		case plumbing.OFSDeltaObject, plumbing.REFDeltaObject:
			if size, err = begin.target(); err != nil {
				return 0, fmt.Errorf("delta at %d: %w", h.Offset, err)
			}
			if size > MaxObject {
				return 0, fmt.Errorf("%w: object of %d bytes; the most is %d", ErrLimit, size, MaxObject)
			}
			if h.Type == plumbing.OFSDeltaObject {
				base, ok := chains[h.OffsetReference]
				if !ok {
					return 0, fmt.Errorf("delta at %d is of no object", h.Offset)
				}
				chain = base
			} else {
				// Which object has that name is not known yet: as if all of
				// these were one chain.
				byName += size + h.Length
				chain = byName
			}
		default:
			return 0, fmt.Errorf("object at %d is of unknown type %d", h.Offset, h.Type)
		}
		chain += size + h.Length
		if chain > lim.chain {
			return 0, fmt.Errorf("%w: a chain of deltas has more than %d bytes", ErrLimit, lim.chain)
		}
		chains[h.Offset] = chain
		if total += size; total > lim.inflated {
			return 0, fmt.Errorf("%w: the pack's objects have more than %d bytes", ErrLimit, lim.inflated)
		}
	}
	if _, err := s.Checksum(); err != nil {
		return 0, err
	}
	at, err := s.SeekFromStart(0)
	if err != nil {
		return 0, err
	}
	if at != end {
		return 0, fmt.Errorf("%d bytes after the end", end-at)
	}
	return objects, nil
}

// A prefix keeps the first bytes written to it. A delta begins with the sizes of
// its base and of its result, each of ten bytes at most.
type prefix struct {
	b [20]byte
	n int
}

func (p *prefix) Write(b []byte) (int, error) {
	p.n += copy(p.b[p.n:], b)
	return len(b), nil
}

// target returns the size of a delta's result, which follows that of its base.
func (p *prefix) target() (int64, error) {
	r := bytes.NewReader(p.b[:p.n])
	base, err := binary.ReadUvarint(r)
	if err != nil || base > MaxObject {
		return 0, errors.New("size of its base is malformed or too large")
	}
	result, err := binary.ReadUvarint(r)
	if err != nil || result > 1<<62 {
		return 0, errors.New("size of its result is malformed")
	}
	return int64(result), nil
}

// index writes the index of a pack into a directory, under the name that Git
// gives the pack, and returns that name. It computes the hash of every object.
func index(f *os.File, into string) (name string, err error) {
	defer recovered(&err)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	w := new(idxfile.Writer)
	p, err := packfile.NewParser(packfile.NewScanner(f), w)
	if err != nil {
		return "", err
	}
	sum, err := p.Parse()
	if err != nil {
		return "", err
	}
	idx, err := w.Index()
	if err != nil {
		return "", err
	}
	out, err := os.CreateTemp(into, temporary+"*.idx")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if _, err := idxfile.NewEncoder(out).Encode(idx); err != nil {
		return "", err
	}
	if err := out.Sync(); err != nil {
		return "", err
	}
	name = "pack-" + sum.String()
	return name, os.Rename(out.Name(), filepath.Join(into, name+".idx"))
}

// recovered turns a panic of the decoders, which read what a stranger sent, into
// an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("decoder panicked: %v", p)
	}
}
