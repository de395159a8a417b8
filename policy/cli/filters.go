package cli

import (
	"errors"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/filters"
)

const filtersHelp = `Prints what each node of an inventory lets in, in addresses: who may send what to it, and whom it has to do with. It is what agents work out for themselves, for looking at and for comparing with another control plane.

The inventory names the nodes, their addresses and what they forward to. Rules with hours are judged at the commit's time, or now; conditions on posture by what the inventory says that nodes report.

Exit codes: 0 printed, 2 could not, as when the policy does not load.

Example:

    policy filters --inventory nodes.json
`

type filtersCmd struct {
	Dir       string `arg:"" optional:"" default:"." help:"Directory of the policy (the current one)."`
	Rev       string `placeholder:"REV" help:"Read this revision of the Git repository that DIR is in."`
	Inventory string `required:"" placeholder:"FILE" help:"The nodes (\"sync inventory\" prints them)."`
	Format    string `enum:"json" default:"json" help:"How to print them: json."`
}

func (filtersCmd) Help() string { return filtersHelp }

func (c filtersCmd) Run(e *env) error {
	inv, err := readInventory(c.Inventory)
	if err != nil {
		return err
	}
	if inv == nil {
		return errors.New("filters: which nodes? name an inventory with --inventory")
	}
	tree, err := readTree(c.Dir, c.Rev)
	if err != nil {
		return err
	}
	r, err := build.Check(e.ctx, build.Request{Tree: tree})
	if err != nil {
		return err
	}
	return filters.Of(r.Compiled, inv, r.At).Print(e.stdout)
}
