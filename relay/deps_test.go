package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// outside is every module outside this one that the relay may link, and why. A
// relay stands on the open Internet; whatever is here can be attacked there.
var outside = map[string]string{
	"github.com/alecthomas/kong":          "the command line",
	"github.com/prometheus/client_golang": "metrics",
	"github.com/prometheus/client_model":  "metrics: their form in memory",
	"github.com/prometheus/common":        "metrics: their text",
	"github.com/prometheus/procfs":        "metrics: linked by client_golang, not used",
	"github.com/beorn7/perks":             "metrics: quantiles, by client_golang",
	"github.com/cespare/xxhash":           "metrics: hashes of labels, by client_golang",
	"github.com/munnerz/goautoneg":        "metrics: HTTP Accept, by common",
	"connectrpc.com/connect":              "the coordinator's protocol, as its client",
	"google.golang.org/protobuf":          "the messages of that protocol, and those of the metrics",
	"golang.org/x/mod":                    "signed notes and Merkle proofs (sumdb/note, sumdb/tlog)",
	"golang.org/x/sys":                    "file locks; STUN: which address was asked; and metrics: system calls, by procfs",
	"golang.org/x/time":                   "rate limits of the server",
}

// inside is what of this module the relay may link: its own folder, and the
// words of the coordinator's. Everything else belongs to other trust boundaries.
var inside = []string{
	"relay/", "coordinator/key", "coordinator/key/tlskey", "coordinator/key/keyfile", "coordinator/leaf", "coordinator/trust",
	"coordinator/papers", "coordinator/acl", "coordinator/netmap", "coordinator/wire",
	"coordinator/follow", "coordinator/statefile", // it verifies and keeps documents as an agent does
}

func TestWhatTheRelayLinks(t *testing.T) {
	const module = "github.com/writmesh/writ/"
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	seen, used := 0, map[string]bool{}
	for path := range strings.FieldsSeq(string(out)) {
		seen++
		if own, ok := strings.CutPrefix(path+"/", module); ok {
			if !slices.ContainsFunc(inside, func(p string) bool { return strings.HasPrefix(own, strings.TrimSuffix(p, "/")+"/") }) {
				t.Errorf("the relay links %s, of another trust boundary", path)
			}
			continue
		}
		allowed := false
		for m := range outside {
			if path == m || strings.HasPrefix(path, m+"/") {
				allowed, used[m] = true, true
			}
		}
		if !allowed {
			t.Errorf("the relay links %s; if it must, give the reason here", path)
		}
	}
	if seen < 10 {
		t.Errorf("only %d packages looked at", seen)
	}
	for m := range outside {
		if !used[m] {
			t.Errorf("%s is allowed and not linked: take it off the list", m)
		}
	}
	for _, heavy := range []string{"github.com/open-policy-agent/", "cuelang.org/", "github.com/go-git/", "github.com/hashicorp/go-memdb", "golang.zx2c4.com/wireguard", "gvisor.dev/", "go.etcd.io/", "github.com/pion/"} {
		if strings.Contains(string(out), heavy) {
			t.Errorf("the relay links %s", heavy)
		}
	}
}
