package main_test

import (
	"testing"

	"github.com/writmesh/writ/coordinator/deptest"
)

// The coordinator is a courier: it checks and hands on what others signed. It
// reads no policy and carries no packet, and what it links shows that.
func TestDeps(t *testing.T) {
	deptest.List{
		Allowed: map[string]string{
			"coordinator/...":            "itself",
			"github.com/alecthomas/kong": "flags and help of the command",

			"golang.org/x/mod/sumdb/note": "signed notes (C2SP)",
			"golang.org/x/mod/sumdb/tlog": "Merkle trees and proofs (RFC 6962)",

			"connectrpc.com/connect":                                  "the protocol it serves",
			"connectrpc.com/connect/internal/gen/connectext/grpc/...": "of connect: errors with details",
			"google.golang.org/protobuf/...":                          "the messages of that protocol",

			"github.com/hashicorp/go-memdb":             "the working set",
			"github.com/hashicorp/go-immutable-radix":   "of go-memdb: snapshots",
			"github.com/hashicorp/golang-lru/simplelru": "of go-immutable-radix: nodes to be written",
			"go.etcd.io/bbolt":                          "the durable store",
			"go.etcd.io/bbolt/errors":                   "of bbolt",
			"go.etcd.io/bbolt/internal/...":             "of bbolt",

			"golang.org/x/crypto/...": "primitives that Go itself does not export",
			"golang.org/x/sync/...":   "waiting for goroutines and their errors",
			"golang.org/x/sys/unix":   "of bbolt and the metrics: file locks, memory maps",
			"golang.org/x/sys/cpu":    "of x/crypto: which instructions there are",
			"golang.org/x/time/rate":  "limits per peer",

			"github.com/prometheus/client_golang/...": "metrics",
			"github.com/prometheus/client_model/go":   "of the metrics: their messages",
			"github.com/prometheus/common/expfmt":     "of the metrics: their text",
			"github.com/prometheus/common/model":      "of the metrics: names and labels",
			"github.com/prometheus/procfs/...":        "of the metrics: the process's own",
			"github.com/beorn7/perks/quantile":        "of the metrics: summaries",
			"github.com/cespare/xxhash/v2":            "of the metrics: label hashes",
			"github.com/munnerz/goautoneg":            "of the metrics: content negotiation",
		},
		Forbidden: map[string]string{
			"policy/...":                           "the coordinator decides nothing",
			"cue/...":                              "the coordinator decides nothing",
			"sync/...":                             "who signs is not who carries",
			"agent/...":                            "the coordinator is no node",
			"relay/...":                            "the coordinator carries no packet",
			"cuelang.org/go/...":                   "the coordinator reads no policy",
			"github.com/open-policy-agent/opa/...": "the coordinator reads no policy",
			"github.com/go-git/...":                "the coordinator reads no repository",
			"golang.zx2c4.com/wireguard/...":       "the coordinator is no node",
			"gvisor.dev/gvisor/...":                "the coordinator is no node",
		},
	}.Check(t, "./coordinator/...")
}
