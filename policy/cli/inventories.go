package cli

import (
	"fmt"
	"time"

	"github.com/writmesh/writ/policy/reach"
)

// inventories are the flags of verbs that compare two revisions.
type inventories struct {
	Inventory     string `placeholder:"FILE" help:"Count the nodes of this inventory, too (\"sync inventory\" prints one)."`
	BaseInventory string `placeholder:"FILE" help:"The inventory as it was at the base; the same, when absent."`
}

// read reads them: the base's, which is the other where it is not given, and the
// head's.
func (f inventories) read() (was, is *reach.Inventory, err error) {
	b, err := readInventoryFile(f.Inventory)
	if err != nil {
		return nil, nil, err
	}
	return f.parse(b)
}

// parse is read, of the bytes of the head's.
func (f inventories) parse(b []byte) (was, is *reach.Inventory, err error) {
	if is, err = namedInventory(f.Inventory, b); err != nil {
		return nil, nil, err
	}
	if f.BaseInventory == "" {
		return is, is, nil
	}
	if is == nil {
		return nil, nil, fmt.Errorf("--base-inventory: want --inventory, too")
	}
	was, err = readInventory(f.BaseInventory)
	return was, is, err
}

// parseAt reads a time; none is zero.
func parseAt(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("--at %q: want a time such as 2026-11-22T10:00:00Z", s)
	}
	return at, nil
}
