package compile_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
)

const policy = `package network

network: {
	name: "acme", domain: "acme.mesh"
	coordinators: {
		b: {addr: "b.acme.example:443", pin: "idpub:IDPUB"}
		a: {addr: "a.acme.example:443", pin: "idpub:IDPUB"}
	}
}
admins: ["group:it", "erin@acme.example"]
groups: {
	accounting: ["alice@acme.example", "group:controllers", {member: "bob@acme.example", until: "2026-12-31T18:00:00Z"}]
	controllers: ["carol@acme.example", "tag:db"]
	it: ["erin@acme.example"]
}
tags: {accounting: {owners: ["group:it"]}, db: {}}
services: web: ["tcp/443", "tcp/80"]
relays: {
	two: {addr: "two.acme.example:443", key: "idpub:OTHER", stun: ["b.acme.example:3479", "a.acme.example:3478"]}
	one: {addr: "one.acme.example:443", key: "idpub:IDPUB"}
}
nodes: {
	alice: {key: "idpub:IDPUB", user: "alice@acme.example", address4: "100.64.0.9", endpoints: ["203.0.113.5:7", "[2001:db8::5]:7"]}
}
rules: {
	web: {from: ["group:controllers", "group:accounting"], to: ["tag:db", "tag:accounting"], allow: ["service:web", "icmp"]}
	ping: {from: ["*"], to: ["tag:accounting"], allow: ["icmp"], until: "2027-06-30T00:00:00Z"}
}
`

// testKey is some identity key, the same for the same n.
func testKey(n byte) string {
	return strings.TrimPrefix(key.IdentityPrivateFromSeed([32]byte{n}).Public().String(), "idpub:")
}

// standIns are what test policies write instead of keys.
var standIns = map[string]string{
	"IDPUB": testKey(1), "OTHER": testKey(2),
	"ENROL": "p2bgp3zgu7xiofiguuk3nbbluxcwartaupv5z7z2ybt3asghu22q",
}

func load(t *testing.T, files map[string]string) *model.Policy {
	t.Helper()
	tree := fstest.MapFS{}
	for name, text := range files {
		for stands, key := range standIns {
			text = strings.ReplaceAll(text, stands, key)
		}
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	p, err := model.Load(tree)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func leaves(t *testing.T, p *model.Policy) map[string]string {
	t.Helper()
	list, err := compile.Leaves(p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b leaf.Leaf) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("leaves are not sorted by name")
	}
	out := map[string]string{}
	for _, l := range list {
		out[l.Name] = string(l.Data)
	}
	return out
}

func TestLeaves(t *testing.T) {
	pub, other := "idpub:"+testKey(1), "idpub:"+testKey(2)
	id := key.IdentityPrivateFromSeed([32]byte{1}).Public().NodeID().String()
	want := map[string]string{
		"network":                      `{"name":"acme","domain":"acme.mesh","prefix4":"100.64.0.0/10","coordinators":[{"addr":"a.acme.example:443","pin":"` + pub + `"},{"addr":"b.acme.example:443","pin":"` + pub + `"}],"admins":["erin@acme.example","group:it"]}` + "\n",
		"relays":                       `{"relays":[{"name":"one","addr":"one.acme.example:443","key":"` + pub + `","stun":["one.acme.example:3478"]},{"name":"two","addr":"two.acme.example:443","key":"` + other + `","stun":["a.acme.example:3478","b.acme.example:3479"]}],"endpoints":[{"node":"` + id + `","addrs":["203.0.113.5:7","[2001:db8::5]:7"]}]}` + "\n",
		"node/alice":                   `{"name":"alice","key":"` + pub + `","user":"alice@acme.example","address4":"100.64.0.9"}` + "\n",
		"principal/alice@acme.example": `{"principal":"alice@acme.example","groups":[{"group":"accounting"}]}` + "\n",
		"principal/bob@acme.example":   `{"principal":"bob@acme.example","groups":[{"group":"accounting","until":"2026-12-31T18:00:00Z"}]}` + "\n",
		"principal/carol@acme.example": `{"principal":"carol@acme.example","groups":[{"group":"accounting"},{"group":"controllers"}]}` + "\n",
		"principal/erin@acme.example":  `{"principal":"erin@acme.example","groups":[{"group":"it"}]}` + "\n",
		"principal/tag:db":             `{"principal":"tag:db","groups":[{"group":"accounting"},{"group":"controllers"}]}` + "\n",
		"inbound/tag:accounting":       `{"to":"tag:accounting","grants":[{"rule":"ping","from":["*"],"allow":["icmp"],"until":"2027-06-30T00:00:00Z"},{"rule":"web","from":["group:accounting","group:controllers"],"allow":["tcp/80","tcp/443","icmp"]}]}` + "\n",
		"inbound/tag:db":               `{"to":"tag:db","grants":[{"rule":"web","from":["group:accounting","group:controllers"],"allow":["tcp/80","tcp/443","icmp"]}]}` + "\n",
	}
	if d := cmp.Diff(want, leaves(t, load(t, map[string]string{"a.cue": policy}))); d != "" {
		t.Errorf("leaves (-want +got):\n%s", d)
	}
}

// TestOrderDoesNotShow shuffles every list of the model, at every depth.
func TestOrderDoesNotShow(t *testing.T) {
	want := leaves(t, load(t, map[string]string{"a.cue": policy}))
	for seed := range uint64(50) {
		p := load(t, map[string]string{"a.cue": policy})
		shuffle(reflect.ValueOf(p), rand.New(rand.NewPCG(seed, 0)))
		if d := cmp.Diff(want, leaves(t, p)); d != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, d)
		}
	}
}

func shuffle(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Pointer:
		shuffle(v.Elem(), r)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				shuffle(v.Field(i), r)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			shuffle(v.Index(i), r)
		}
		if v.Len() > 1 {
			r.Shuffle(v.Len(), reflect.Swapper(v.Interface()))
		}
	}
}

// TestPlacesDoNotShow moves lines, spreads the policy over files and changes what
// only people read.
func TestPlacesDoNotShow(t *testing.T) {
	want := leaves(t, load(t, map[string]string{"a.cue": policy}))
	head, rules, _ := strings.Cut(policy, "rules: {")
	moved := map[string]string{
		"z/rest.cue": "// Moved.\n\n" + head,
		"rules.cue":  "package network\n\n\n\nrules: {" + strings.ReplaceAll(rules, `allow: ["icmp"]`, `why: "NET-1", allow: ["icmp"]`),
		"tests.cue":  "package network\n\ntests: t: deny: [{from: \"tag:db\", to: \"*\"}]\n",
	}
	if d := cmp.Diff(want, leaves(t, load(t, moved))); d != "" {
		t.Errorf("leaves (-want +got):\n%s", d)
	}
}

// TestMembershipsAreTheFixpoint compares the flattened groups with another way
// to compute them: repeat "a member lasts as long as its group's own way, or the
// shorter" until nothing changes.
func TestMembershipsAreTheFixpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
		when := func() time.Time {
			n := rapid.IntRange(0, 4).Draw(t, "until")
			if n == 0 {
				return time.Time{}
			}
			return start.AddDate(0, 0, n)
		}
		p := &model.Policy{}
		const groups = 6
		for g := range groups {
			group := model.Group{Name: fmt.Sprintf("g%d", g)}
			members := []acl.Selector{{Kind: acl.KindUser, Name: "a@x"}, {Kind: acl.KindUser, Name: "b@x"}, {Kind: acl.KindTag, Name: "t"}}
			for inner := range g { // of lower groups only: no cycles
				members = append(members, acl.Selector{Kind: acl.KindGroup, Name: fmt.Sprintf("g%d", inner)})
			}
			for _, m := range members {
				if rapid.Bool().Draw(t, "member") {
					group.Members = append(group.Members, model.Member{Selector: m, Until: when()})
				}
			}
			p.Groups = append(p.Groups, group)
		}
		list, err := compile.Leaves(p)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, l := range list {
			if strings.HasPrefix(l.Name, "principal/") {
				pr, err := leaf.DecodePrincipal(l)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range pr.Groups {
					got[pr.Principal.String()+" in "+m.Group] = m.Until.String()
				}
			}
		}
		want := map[string]string{}
		for _, who := range []string{"a@x", "b@x", "tag:t"} {
			for g, end := range fixpoint(p, who) {
				want[who+" in "+g] = end.String()
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("memberships (-want +got):\n%s", d)
		}
	})
}

// never stands for no end in fixpoint.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func fixpoint(p *model.Policy, who string) map[string]time.Time {
	ends := map[string]time.Time{} // by group
	for changed := true; changed; {
		changed = false
		for _, g := range p.Groups {
			for _, m := range g.Members {
				end := never
				if m.Selector.Kind == acl.KindGroup {
					inner, ok := ends[m.Selector.Name]
					if !ok {
						continue
					}
					end = inner
				} else if m.Selector.String() != who {
					continue
				}
				if !m.Until.IsZero() && m.Until.Before(end) {
					end = m.Until
				}
				if old, ok := ends[g.Name]; !ok || end.After(old) {
					ends[g.Name], changed = end, true
				}
			}
		}
	}
	for g, end := range ends {
		if end.Equal(never) {
			ends[g] = time.Time{}
		}
	}
	return ends
}

// TestCycleEnds gives the compiler what a checked policy never holds.
func TestCycleEnds(t *testing.T) {
	group := func(name string) acl.Selector { return acl.Selector{Kind: acl.KindGroup, Name: name} }
	p := &model.Policy{Groups: []model.Group{
		{Name: "a", Members: []model.Member{{Selector: group("b")}, {Selector: acl.Selector{Kind: acl.KindUser, Name: "a@x"}}}},
		{Name: "b", Members: []model.Member{{Selector: group("a")}}},
	}}
	list, err := compile.Leaves(p)
	if err != nil {
		t.Fatalf("a cycle: got %v, want the two groups", err)
	}
	for _, l := range list {
		if l.Name == "principal/a@x" {
			if got, want := string(l.Data), `{"principal":"a@x","groups":[{"group":"a"},{"group":"b"}]}`+"\n"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}
