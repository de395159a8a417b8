package source

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// maxTreeObject bounds the object of one directory: MaxFiles entries with the
// longest names fit three times over.
const maxTreeObject = 8 << 20

// Modes of the entries of a tree object.
const (
	modeDir        = "40000"
	modeFile       = "100644"
	modeExecutable = "100755"
	modeSymlink    = "120000"
	modeSubmodule  = "160000"
)

// An entry is one line of a tree object.
type entry struct{ mode, name, id string }

// parseTree reads a tree object: for each entry the mode in octal, a space, the
// name, a NUL and the 20 bytes of the hash.
func parseTree(data []byte) ([]entry, error) {
	var out []entry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		if !ok || len(rest) < 20 {
			return nil, errors.New("tree object ends within an entry")
		}
		mode, name, ok := strings.Cut(string(head), " ")
		if !ok {
			return nil, errors.New("tree object has an entry without a name")
		}
		out = append(out, entry{mode, name, hex.EncodeToString(rest[:20])})
		data = rest[20:]
	}
	return out, nil
}

func (r *Repository) entries(path, id string) ([]entry, error) {
	data, err := r.object(plumbing.TreeObject, id, maxTreeObject)
	if errors.Is(err, errTooLarge) {
		return nil, refuse(path, "directory is larger than %d bytes", maxTreeObject)
	}
	if err != nil {
		return nil, err
	}
	es, err := parseTree(data)
	if err != nil {
		return nil, refuse(path, "%v", err)
	}
	return es, nil
}

// files reads the files of a commit, those below r.sub.
func (r *Repository) files(c Commit) (map[string][]byte, error) {
	top, err := r.subtree(c)
	if err != nil {
		return nil, err
	}
	col := newCollector()
	if err := r.readTree(col, "", top); err != nil {
		return nil, err
	}
	return col.files, nil
}

// subtree returns the tree object of r.sub in a commit.
func (r *Repository) subtree(c Commit) (string, error) {
	id, path := c.Tree, ""
	if r.sub == "." {
		return id, nil
	}
	for name := range strings.SplitSeq(r.sub, "/") {
		es, err := r.entries(path, id)
		if err != nil {
			return "", err
		}
		path, id = strings.TrimPrefix(path+"/"+name, "/"), ""
		for _, e := range es {
			if e.name == name && e.mode == modeDir {
				id = e.id
			}
		}
		if id == "" {
			return "", fmt.Errorf("directory %s is not in this commit", path)
		}
	}
	return id, nil
}

func (r *Repository) readTree(c *collector, dir, id string) error {
	es, err := r.entries(dir, id)
	if err != nil {
		return err
	}
	for _, e := range es {
		full, err := c.enter(dir, e.name)
		if err != nil {
			return err
		}
		switch e.mode {
		case modeDir:
			if err := c.directory(full); err != nil {
				return err
			}
			if err := r.readTree(c, full, e.id); err != nil {
				return err
			}
		case modeFile, modeExecutable:
			if err := c.room(full, 0); err != nil {
				return err
			}
			// No more is read than there is room for.
			limit := min(MaxFile, MaxTotal-c.total)
			data, err := r.object(plumbing.BlobObject, e.id, limit)
			if errors.Is(err, errTooLarge) {
				return c.room(full, limit+1)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", full, err)
			}
			if err := c.file(full, data); err != nil {
				return err
			}
		case modeSymlink:
			return refuse(full, "symbolic link")
		case modeSubmodule:
			return refuse(full, "submodule")
		default:
			return refuse(full, "unknown mode %.12q", e.mode)
		}
	}
	return nil
}
