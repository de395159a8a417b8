// Package statefile keeps a program's state in files that are replaced whole and
// tell when they are damaged.
//
// # Format
//
// A file is one line, then the content:
//
//	writ-state/1 KIND LENGTH SHA256\n
//
// KIND is a word that says what the content is, LENGTH its length in bytes in
// decimal, SHA256 its hash in 64 lower-case hexadecimal digits. A reader refuses
// another kind, a length that is not that of the rest of the file, and another
// hash.
//
// # Writing
//
// Write makes a temporary file in the same directory, writes and syncs it, keeps
// the file that was there, if it is whole, as NAME.prev, renames the new one into place and syncs
// the directory. Whenever the machine stops, NAME or NAME.prev is whole. Files
// have mode 0600.
//
// # Reading
//
// Read gives NAME; where that is damaged, it gives NAME.prev with a [Damaged]
// error that says so, for the program to report. Where neither can be read but
// one exists, it is an error and never "no state": a program that had state does
// not begin again as if it had none.
package statefile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const magic = "writ-state/1"

// MaxSize is the largest content in bytes.
const MaxSize = 1 << 30

// Damaged says that a state file could not be read as it was written.
type Damaged struct {
	Path     string
	Why      string
	Restored bool // the copy before it was read instead
}

func (d *Damaged) Error() string {
	if d.Restored {
		return fmt.Sprintf("state file %s is damaged (%s); using the copy before it, %s.prev", d.Path, d.Why, d.Path)
	}
	return fmt.Sprintf("state file %s is damaged (%s), and there is no whole copy", d.Path, d.Why)
}

// Encode is the file that holds content.
func Encode(kind string, content []byte) []byte {
	sum := sha256.Sum256(content)
	head := fmt.Sprintf("%s %s %d %x\n", magic, kind, len(content), sum)
	return append([]byte(head), content...)
}

// Decode is the content of a file.
func Decode(kind string, file []byte) ([]byte, error) {
	line, content, ok := bytes.Cut(file, []byte("\n"))
	if !ok || len(line) > 256 {
		return nil, errors.New("no header")
	}
	f := strings.Split(string(line), " ")
	switch {
	case len(f) != 4 || f[0] != magic:
		return nil, errors.New("no header")
	case f[1] != kind:
		return nil, fmt.Errorf("holds %q, want %q", f[1], kind)
	}
	n, err := strconv.Atoi(f[2])
	switch {
	case err != nil || strconv.Itoa(n) != f[2]:
		return nil, errors.New("no length")
	case n > len(content):
		return nil, fmt.Errorf("truncated: %d of %d bytes", len(content), n)
	case n < len(content):
		return nil, fmt.Errorf("%d bytes after the end", len(content)-n)
	case f[3] != fmt.Sprintf("%x", sha256.Sum256(content)):
		return nil, errors.New("checksum does not match")
	}
	return content, nil
}

// Write replaces the file. When it returns nil the content is on the disk.
func Write(path, kind string, content []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.Write(Encode(kind, content))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = keepPrevious(path, kind)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// keepPrevious gives the file a second name. The first stays, so that there is
// no moment without it. A file that is damaged or gone is not kept: the copy
// before it is then the only whole one until the new file is in place.
func keepPrevious(path, kind string) error {
	if _, err := readOne(path, kind); err != nil {
		return nil
	}
	prev := path + ".prev"
	if err := os.Remove(prev); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(path, prev)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Read gives the content of the file. Where the file does not exist the error
// matches fs.ErrNotExist. A *Damaged error with Restored set comes with content.
func Read(path, kind string) ([]byte, error) {
	content, err := readOne(path, kind)
	if err == nil {
		return content, nil
	}
	prev, perr := readOne(path+".prev", kind)
	switch {
	case perr == nil:
		return prev, &Damaged{Path: path, Why: err.Error(), Restored: true}
	case errors.Is(err, fs.ErrNotExist) && errors.Is(perr, fs.ErrNotExist):
		return nil, fmt.Errorf("read %s: %w", path, fs.ErrNotExist)
	default:
		return nil, &Damaged{Path: path, Why: err.Error()}
	}
}

func readOne(path, kind string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > MaxSize {
		return nil, errors.New("not a regular file of at most 1 GiB")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Decode(kind, b)
}
