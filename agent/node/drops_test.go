package node

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/router"
	"github.com/writmesh/writ/agent/tunnel"
)

// numbered gives every counter of a struct a number of its own.
func numbered[T any](t *testing.T) (s T, of map[string]float64) {
	t.Helper()
	v := reflect.ValueOf(&s).Elem()
	of = make(map[string]float64)
	for i := range v.NumField() {
		v.Field(i).SetUint(uint64(i + 1))
		of[strings.ToLower(v.Type().Field(i).Name)] = float64(i + 1)
	}
	return s, of
}

// What a part counts as dropped is told under the name that the part has for it,
// and a counter that is added later is told or named here.
func TestDropsAreTold(t *testing.T) {
	check := func(part string, told any, counted map[string]float64, others ...string) {
		t.Helper()
		text, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]float64
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(counted)
		maps.DeleteFunc(want, func(name string, _ float64) bool { return slices.Contains(others, name) })
		lower := make(map[string]float64)
		for name, n := range got {
			lower[strings.ToLower(name)] = n
		}
		if !maps.Equal(lower, want) {
			t.Errorf("%s: got %v, want %v", part, lower, want)
		}
	}
	f, of := numbered[router.Drops](t)
	check("the packet filter", firewallDrops(f), of)
	c, of := numbered[tunnel.Counters](t)
	// Refused is what the filter did, which counts by itself; held were not dropped.
	check("the tunnel", tunnelDrops(c), of, "refusedin", "refusedout", "held")
	b, of := numbered[bind.Stats](t)
	// These were not dropped here: they went on, or another way.
	check("the bind", bindDrops(b), of, "delivered", "unknown", "retried", "refused", "control", "strangers")
}
