package source

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Dir reads a directory. What it returns does not change when the directory does.
func Dir(path string) (Tree, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return Tree{}, fmt.Errorf("read directory: %w", err)
	}
	defer root.Close()
	c := newCollector()
	if err := readDir(c, root, ""); err != nil {
		return Tree{}, fmt.Errorf("read directory %s: %w", path, err)
	}
	return Tree{FS: newSnapshot(c.files), Label: path}, nil
}

func readDir(c *collector, root *os.Root, dir string) error {
	entries, err := list(root, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if dir == "" && e.Name() == ".git" {
			continue
		}
		if e.Name() == ".git" {
			return refuse(dir, "nested repository or submodule")
		}
		full, err := c.enter(dir, e.Name())
		if err != nil {
			return err
		}
		switch mode := e.Type(); {
		case mode.IsDir():
			if err := c.directory(full); err != nil {
				return err
			}
			if err := readDir(c, root, full); err != nil {
				return err
			}
		case mode.IsRegular():
			if err := readRegular(c, root, full); err != nil {
				return err
			}
		default:
			return refuse(full, "%s", kind(mode))
		}
	}
	return nil
}

// list reads a directory's entries, no more than a tree may hold.
func list(root *os.Root, dir string) ([]fs.DirEntry, error) {
	name := dir
	if name == "" {
		name = "."
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 2*MaxFiles + 1 // files and directories, and .git
	entries, err := f.ReadDir(most + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(entries) > most {
		return nil, refuse(name, "more than %d entries", most)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// readRegular reads a file that was seen to be regular. Between that look and
// the open it may have become a link or a pipe: the open never blocks, and what
// was opened must be what was seen.
func readRegular(c *collector, root *os.Root, full string) error {
	seen, err := root.Lstat(full)
	if err != nil {
		return err
	}
	if !seen.Mode().IsRegular() {
		return refuse(full, "%s", kind(seen.Mode()))
	}
	if err := c.room(full, seen.Size()); err != nil {
		return err
	}
	f, err := root.OpenFile(full, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(seen, opened) {
		return refuse(full, "replaced while it was read")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return err
	}
	return c.file(full, data)
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "not a regular file"
}
