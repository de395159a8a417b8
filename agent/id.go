package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/writmesh/writ/agent/node"
)

type idCmd struct{}

func (idCmd) Run(e *env) error {
	file := filepath.Join(e.state, node.IdentityFile)
	made := !exists(file)
	k, err := node.Identity(e.state)
	if err != nil {
		return err
	}
	if made && os.Geteuid() == 0 {
		if err := giveToOwner(file); err != nil {
			return err
		}
	}
	fmt.Fprintln(e.stdout, k.Public())
	return nil
}

// giveToOwner gives a file that root just made to the owner of its directory:
// the service, whose agent runs as another user, is to read it.
//
// That owner may put what it likes in the file's place, and is given nothing but
// a file that root made there: not what a link leads to.
func giveToOwner(path string) error {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	owner, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || is.Nlink != 1 {
		return fmt.Errorf("give %s to the owner of its directory: another file is in its place", path)
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
