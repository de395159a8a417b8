package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
)

// SourceHash returns the hash of a tree's files. It is the SHA-256 of one line
// for each regular file, sorted by path as bytes:
//
//	<SHA-256 of the content, 64 lower-case hexadecimal digits><two spaces><path><newline>
//
// Paths are slash-separated and relative to the tree. Directories, modes and
// times do not count. These are the lines of sha256sum(1), and the digest is
// that of the h1: hashes in go.sum, so that both can recompute it. A file that
// is not regular, a path with a newline and more than MaxFiles files are errors.
func SourceHash(fsys fs.FS) (key.Hash, error) {
	type file struct{ path, sum string }
	var files []file
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return refuse(path, "%s", kind(d.Type()))
		}
		if len(files) == MaxFiles {
			return refuse(path, "more than %d files", MaxFiles)
		}
		if strings.ContainsRune(path, '\n') {
			return refuse(path, "newline in a path")
		}
		f, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		files = append(files, file{path, hex.EncodeToString(h.Sum(nil))})
		return nil
	})
	if err != nil {
		return key.Hash{}, fmt.Errorf("hash source: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s  %s\n", f.sum, f.path)
	}
	return key.Hash(h.Sum(nil)), nil
}
