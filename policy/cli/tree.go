package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

// readTree reads a policy tree: a directory, or a revision of the repository
// that the directory is in.
func readTree(dir, rev string) (source.Tree, error) {
	if rev == "" {
		return source.Dir(dir)
	}
	r, err := source.Open(dir)
	if err != nil {
		return source.Tree{}, err
	}
	return r.Tree(rev)
}

// asProblems turns what is wrong with a tree into problems with places. It
// returns nil where the error is about something else.
func asProblems(err error) model.Problems {
	var ps model.Problems
	if errors.As(err, &ps) {
		return ps
	}
	var refusal *source.Refusal
	if errors.As(err, &refusal) {
		return model.Problems{{Place: model.Place{File: refusal.Path}, Message: refusal.Reason}}
	}
	return nil
}

// maxInventory bounds an inventory: a hundred thousand nodes.
const maxInventory = 32 << 20

// readInventory reads a file that "sync inventory" printed; no name, no inventory.
func readInventory(name string) (*reach.Inventory, error) {
	b, err := readInventoryFile(name)
	if err != nil {
		return nil, err
	}
	return namedInventory(name, b)
}

// readInventoryFile reads a file that readInventory would read, and does not look at
// what is in it.
func readInventoryFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	b, err := readFile(name, maxInventory)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	return b, nil
}

// namedInventory is the inventory in b, which was read from the file of that name.
func namedInventory(name string, b []byte) (*reach.Inventory, error) {
	if name == "" {
		return nil, nil
	}
	inv, err := parseInventory(b)
	if err != nil {
		return nil, fmt.Errorf("read inventory %s: %w", name, err)
	}
	return inv, nil
}

// parseInventory rejects unknown fields, data after the object, names that no
// node can have, a name twice, and nodes that are neither a user's nor tagged, or
// both.
func parseInventory(b []byte) (*reach.Inventory, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	inv := &reach.Inventory{}
	if err := d.Decode(inv); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("data after the object")
	}
	for _, u := range inv.Users {
		if err := acl.CheckUser(u.Email); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	for _, n := range inv.Nodes {
		if err := acl.CheckLabel("node", n.Name); err != nil {
			return nil, err
		}
		if seen[n.Name] {
			return nil, fmt.Errorf("node %q is there twice", n.Name)
		}
		seen[n.Name] = true
		if (n.User == "") == (len(n.Tags) == 0) {
			return nil, fmt.Errorf("node %q: want a user, or tags", n.Name)
		}
		if n.User != "" {
			if err := acl.CheckUser(n.User); err != nil {
				return nil, fmt.Errorf("node %q: %w", n.Name, err)
			}
		}
		for i, t := range n.Tags {
			n.Tags[i] = strings.TrimPrefix(t, "tag:") // with it or without
			if err := acl.CheckName("tag", n.Tags[i]); err != nil {
				return nil, fmt.Errorf("node %q: %w", n.Name, err)
			}
		}
		for _, p := range slices.Concat(n.Routes.Advertised, n.Routes.Approved) {
			if p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
				return nil, fmt.Errorf("node %q: route %s: write %s", n.Name, p, p.Masked())
			}
		}
	}
	return inv, nil
}

// readFile reads a file that is no larger than the limit.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return b, nil
}
