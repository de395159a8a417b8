package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

// asked are the flags of the verbs that ask about one policy at one time.
type asked struct {
	Dir       string `default:"." placeholder:"DIR" help:"Directory of the policy (the current one)."`
	At        string `placeholder:"REV|TIME" aliases:"rev" help:"Ask a revision of the Git repository that DIR is in, or what stood at a time (2026-11-22T10:00:00Z)."`
	Inventory string `placeholder:"FILE" help:"Count the nodes of this inventory, too (\"sync inventory\" prints one)."`
	JSON      bool   `name:"json" help:"Write JSON."`
}

// atHelp explains --at; it ends the first part of a verb's help.
const atHelp = `

Without --at the files in DIR are asked, as of now. --at REV asks a revision, as of when it was committed. --at TIME, in RFC 3339, asks what stood then: the newest commit on HEAD's main line that was made by that time, judged at that time, with the hours, memberships and rules that had begun or ended.`

// A view is a policy that is built, and what questions about it need.
type view struct {
	*build.Result
	inventory *reach.Inventory
	repo      *source.Repository // nil where there is none
	instant   bool               // a time was asked for: hours are judged then, and not for every hour
}

// load reads and builds what is asked about.
func (f asked) load(e *env) (*view, error) {
	v := &view{}
	var err error
	if v.inventory, err = readInventory(f.Inventory); err != nil {
		return nil, err
	}
	if v.repo, err = source.Open(f.Dir); err != nil {
		return nil, err
	}
	req := build.Request{}
	if req.Tree, req.At, err = tree(v.repo, f.Dir, f.At); err != nil {
		return nil, err
	}
	v.instant = !req.At.IsZero()
	v.Result, err = build.Check(e.ctx, req)
	return v, err
}

// tree reads the directory, or what --at names. The time is zero unless it names
// one.
func tree(repo *source.Repository, dir, at string) (source.Tree, time.Time, error) {
	if at == "" {
		t, err := source.Dir(dir)
		return t, time.Time{}, err
	}
	if instant, err := time.Parse(time.RFC3339, at); err == nil {
		c, err := repo.AsOf("HEAD", instant)
		if err != nil {
			return source.Tree{}, time.Time{}, err
		}
		t, err := repo.Tree(c.Hash)
		return t, instant, err
	}
	t, err := repo.Tree(at)
	if errors.Is(err, source.ErrUnknownRevision) && len(at) > 4 && at[4] == '-' {
		err = fmt.Errorf("%w, nor is it a time such as 2026-11-22T10:00:00Z", err)
	}
	return t, time.Time{}, err
}
