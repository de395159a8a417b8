package source

import (
	"bytes"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

var (
	errIsDirectory  = errors.New("is a directory")
	errNotDirectory = errors.New("not a directory")
)

// A collector gathers the files of a tree and enforces what a tree may hold. A
// directory and a commit feed the same one.
type collector struct {
	files  map[string][]byte
	folded map[string]string // folded path -> the path first seen so
	dirs   int
	total  int64
}

func newCollector() *collector {
	return &collector{files: make(map[string][]byte), folded: make(map[string]string)}
}

// enter checks an entry's name and place before anything is read. The path is
// that of the directory it is in, "" at the top.
func (c *collector) enter(dir, name string) (string, error) {
	full := name
	if dir != "" {
		full = dir + "/" + name
	}
	if err := checkName(full, name); err != nil {
		return "", err
	}
	if n := strings.Count(full, "/") + 1; n > MaxDepth {
		return "", refuse(full, "more than %d names in a path", MaxDepth)
	}
	key := fold(full)
	if other, ok := c.folded[key]; ok {
		return "", refuse(full, "collides with %q: they differ only in case or normalization", other)
	}
	c.folded[key] = full
	return full, nil
}

// directory counts a directory. Their number is bounded as that of files is, or
// a few objects that name each other could stand for millions of them.
func (c *collector) directory(full string) error {
	if c.dirs++; c.dirs > MaxFiles {
		return refuse(full, "more than %d directories", MaxFiles)
	}
	return nil
}

// room says whether a file of this size fits, before it is read.
func (c *collector) room(full string, size int64) error {
	switch {
	case len(c.files) >= MaxFiles:
		return refuse(full, "more than %d files", MaxFiles)
	case size > MaxFile:
		return refuse(full, "file is larger than %d bytes", MaxFile)
	case c.total+size > MaxTotal:
		return refuse(full, "files are larger than %d bytes altogether", MaxTotal)
	}
	return nil
}

// file takes a file.
func (c *collector) file(full string, data []byte) error {
	if err := c.room(full, int64(len(data))); err != nil {
		return err
	}
	if isPointer(data) {
		return refuse(full, "pointer of Git LFS; its content is not in the repository")
	}
	c.files[full] = data
	c.total += int64(len(data))
	return nil
}

// checkName checks one name of a path.
func checkName(full, name string) error {
	switch {
	case !utf8.ValidString(name):
		return refuse(full, "name is not UTF-8")
	case name == "" || name == "." || name == "..":
		return refuse(full, "name is empty or made of dots")
	case len(name) > MaxName:
		return refuse(full, "name is longer than %d bytes", MaxName)
	}
	for _, r := range name {
		switch {
		case r == '/' || r == '\\':
			return refuse(full, "slash or backslash in a name")
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return refuse(full, "control or formatting character %U in a name", r)
		}
	}
	// Windows drops trailing dots and spaces and has the short name GIT~1; a
	// colon begins the name of a stream there.
	base, _, _ := strings.Cut(fold(name), ":")
	if base = strings.TrimRight(base, ". "); base == fold(".git") || base == fold("git~1") {
		return refuse(full, "name means .git on some systems")
	}
	return nil
}

// fold maps paths that some file system takes for the same to one string: the
// least of each letter's case variants, of the composed form.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, norm.NFC.String(s))
}

// isPointer reports whether a file is a pointer of Git LFS or its forerunner.
// They are below 1024 bytes and begin with the version line.
func isPointer(data []byte) bool {
	if len(data) >= 1024 {
		return false
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	return bytes.HasPrefix(line, []byte("version https://git-lfs.github.com/spec/")) ||
		bytes.HasPrefix(line, []byte("version https://hawser.github.com/spec/"))
}
