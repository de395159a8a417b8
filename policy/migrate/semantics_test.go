package migrate

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/filters"
	"github.com/writmesh/writ/policy/reach"
)

// The nodes that flows name. Addresses are 100.80.0.N and fd7a:115c:a1e0::N, N in
// hexadecimal digits there.
func inventory() *reach.Inventory {
	at := func(n string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("100.80.0." + n), netip.MustParseAddr("fd7a:115c:a1e0::" + n)}
	}
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	user := func(n, name, email string, reports ...string) reach.Admitted {
		a := reach.Admitted{Name: name, User: email, Addresses: at(n)}
		for i := 0; i < len(reports); i += 2 {
			if a.Posture == nil {
				a.Posture = map[string]string{}
			}
			a.Posture[reports[i]] = reports[i+1]
		}
		return a
	}
	server := func(n, name string, routes []netip.Prefix, tags ...string) reach.Admitted {
		return reach.Admitted{Name: name, Tags: tags, Addresses: at(n), Routes: reach.Routes{Advertised: routes}}
	}
	return &reach.Inventory{Nodes: []reach.Admitted{
		user("1", "ann-pc", "ann@corp.example", "os", "macos", "osVersion", "14.3"),
		user("2", "ben-pc", "ben@corp.example", "os", "macos", "osVersion", "13.9"),
		user("3", "ben-phone", "ben@corp.example", "os", "android", "custom:managed", "true"),
		user("4", "cat-pc", "cat@corp.example"),
		user("5", "cat-tab", "cat@corp.example"),
		server("11", "web", nil, "web"),
		server("12", "db", nil, "db"),
		server("13", "both", nil, "web", "db"),
		server("21", "gate", prefixes("10.7.0.0/16", "10.8.0.0/16", "10.7.1.9/32"), "gate"),
		server("22", "gate2", prefixes("10.7.3.0/24"), "gate"),
		server("31", "exit", prefixes("0.0.0.0/0", "::/0", "172.20.0.0/16"), "exit"),
	}}
}

// load imports a file and reads what comes out as policy does.
func load(t testing.TB, from func([]byte, Options) (*Result, error), src string, o Options) (*model.Policy, *reach.Compiled, *Result, error) {
	t.Helper()
	r, err := from([]byte(src), o)
	if err != nil {
		return nil, nil, nil, err
	}
	p, c := loadResult(t, r)
	return p, c, r, nil
}

func loadResult(t testing.TB, r *Result) (*model.Policy, *reach.Compiled) {
	t.Helper()
	files := fstest.MapFS{}
	for _, f := range r.Files {
		files[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	p, err := model.Load(files)
	if err != nil {
		t.Fatalf("what came out does not load: %v\n%s", err, all(r))
	}
	leaves, err := compile.Leaves(p)
	if err != nil {
		t.Fatalf("what came out does not compile: %v\n%s", err, all(r))
	}
	c, err := reach.Read(leaves)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

// all is a result as text.
func all(r *Result) string {
	var b strings.Builder
	for _, f := range r.Files {
		b.WriteString("-- " + f.Name + " --\n" + string(f.Data))
	}
	return b.String()
}

// TestSemantics imports each file under testdata/semantics, policy.hujson of Tailscale
// or netbird.json, and asks the filters of
// the nodes about flows: "yes|no FROM -> TO PORT", where an end is NODE, NODE/6 for
// its IPv6 address or NODE:ADDRESS behind it; or finds all texts under "problems".
func TestSemantics(t *testing.T) {
	names, err := filepath.Glob("testdata/semantics/*.txtar")
	if err != nil || len(names) < 40 {
		t.Fatalf("got %d cases, want 40 at least (%v)", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file := map[string]string{}
			for _, f := range ar.Files {
				file[f.Name] = string(f.Data)
			}
			o := Options{File: "policy.hujson"}
			for l := range strings.Lines(string(ar.Comment)) {
				if users, ok := strings.CutPrefix(strings.TrimSpace(l), "flags: users "); ok {
					o.Users = users
				}
			}
			from, src := Tailscale, file["policy.hujson"]
			if src == "" {
				from, src, o.File = NetBird, file["netbird.json"], "netbird.json"
			}
			_, c, r, err := load(t, from, src, o)
			if want := file["problems"]; want != "" {
				if err == nil {
					t.Fatalf("got no problem, want %s%s", want, all(r))
				}
				for l := range strings.Lines(want) {
					if l = strings.TrimSpace(l); !strings.Contains(err.Error(), l) || !strings.Contains(err.Error(), o.File+":") {
						t.Errorf("got\n%v\nwant %s with its place", err, l)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			inv := inventory()
			report := filters.Of(c, inv, time.Unix(1_800_000_000, 0))
			asked := 0
			for l := range strings.Lines(file["flows"]) {
				if l = strings.TrimSpace(l); l != "" {
					flow(t, report, inv, l)
					asked++
				}
			}
			if asked == 0 {
				t.Error("no flows and no problems")
			}
			if t.Failed() {
				t.Log(all(r))
			}
		})
	}
}

// An endpoint is one end of a flow: the node, and the address.
func endpoint(t *testing.T, inv *reach.Inventory, s string) (node string, addr netip.Addr) {
	t.Helper()
	name, behind, isBehind := strings.Cut(s, ":")
	name, v6 := strings.CutSuffix(name, "/6")
	for _, n := range inv.Nodes {
		switch {
		case n.Name != name:
		case isBehind:
			return name, netip.MustParseAddr(behind)
		case v6:
			return name, n.Addresses[1]
		default:
			return name, n.Addresses[0]
		}
	}
	t.Fatalf("no node %s", name)
	return "", netip.Addr{}
}

// flow checks one line.
func flow(t *testing.T, r *filters.Report, inv *reach.Inventory, l string) {
	t.Helper()
	f := strings.Fields(l)
	if len(f) != 5 || f[2] != "->" {
		t.Fatalf("%q: want yes|no FROM -> TO PORT", l)
	}
	_, src := endpoint(t, inv, f[1])
	to, dst := endpoint(t, inv, f[3])
	node := r.Nodes[to]
	if strings.HasSuffix(f[0], "cap") {
		name, value, _ := strings.Cut(f[4], "=")
		has := slices.ContainsFunc(node.Capabilities, func(c filters.Capability) bool {
			got, _ := c.Value.(interface{ MarshalJSON() ([]byte, error) })
			var text []byte
			if got != nil {
				text, _ = got.MarshalJSON()
			}
			return c.Name == name && contains(c.Src, src) && contains(c.Dst, dst) && (value == "" || string(text) == value)
		})
		if has != (f[0] == "cap") {
			t.Errorf("%s: got %t", l, has)
		}
		return
	}
	ports, err := acl.ParsePorts(f[4])
	if err != nil {
		t.Fatal(err)
	}
	protos := []int{int(ports.Proto)}
	if ports.Range == acl.RangeEcho {
		protos = []int{1}
		if src.Is6() {
			protos = []int{58}
		}
	}
	got := slices.ContainsFunc(node.Filter, func(e filters.Entry) bool {
		return contains(e.Src, src) && slices.ContainsFunc(protos, func(p int) bool { return slices.Contains(e.Proto, p) }) &&
			slices.ContainsFunc(e.Dst, func(d filters.Dst) bool {
				return contains([]string{d.To}, dst) && d.First <= ports.First && ports.First <= d.Last
			})
	})
	if want := f[0] == "yes"; got != want {
		t.Errorf("%s: got %s", l, strconv.FormatBool(got))
	}
}

func contains(list []string, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		if s == "*" {
			return true
		}
		sel, err := acl.ParseSelector(s)
		return err == nil && sel.Prefix().Contains(a)
	})
}
