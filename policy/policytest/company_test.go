package policytest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/policytest"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

func TestMain(m *testing.M) {
	build.Child()
	os.Exit(m.Run())
}

// TestCompany builds companies: they load without a warning, have what was asked
// for, and pass their tests.
func TestCompany(t *testing.T) {
	for _, c := range []struct{ users, groups, rules, assertions int }{
		{1, 1, 0, 1}, {20, 5, 10, 10}, {300, 50, 200, 95},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			r, err := build.Build(t.Context(), build.Request{Tree: source.Tree{FS: policytest.Company(c.users, c.groups, c.rules, c.assertions)}})
			if err != nil {
				t.Fatal(err)
			}
			p := r.Policy
			users, assertions := map[string]bool{}, 0
			for _, g := range p.Groups {
				for _, m := range g.Members {
					if s := m.Selector.String(); bytes.ContainsRune([]byte(s), '@') {
						users[s] = true
					}
				}
			}
			for _, t := range p.Tests {
				assertions += len(t.Allow) + len(t.Deny) + len(t.Only)
			}
			if got, want := fmt.Sprint(len(users), max(len(p.Groups), 2), len(p.Rules), assertions), fmt.Sprint(c.users, max(c.groups, 2), c.rules, c.assertions); got != want {
				t.Errorf("users, groups, rules, assertions: got %s, want %s", got, want)
			}
			if len(p.Warnings) > 0 {
				t.Errorf("%d warnings, the first: %s", len(p.Warnings), p.Warnings[0])
			}
			if !r.Tests.OK() {
				b, _ := json.MarshalIndent(r.Tests, "", " ")
				t.Errorf("tests do not pass: %.2000s", b)
			}
		})
	}
}

func TestInventory(t *testing.T) {
	var inv reach.Inventory
	if err := json.Unmarshal(policytest.InventoryJSON(100, 20, 50), &inv); err != nil {
		t.Fatal(err)
	}
	people, tagged := 0, 0
	for _, n := range inv.Nodes {
		if n.User != "" {
			people++
		}
		tagged += len(n.Tags)
	}
	if people != 90 || tagged != 10 {
		t.Errorf("%d nodes of people and %d of tags, want 90 and 10", people, tagged)
	}
}
