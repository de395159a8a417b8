package main_test

import (
	"testing"

	"github.com/writmesh/writ/coordinator/deptest"
)

// The agent runs on every node, often as root. What it links is therefore a list
// somebody decided on, with a reason for each.
func TestDeps(t *testing.T) {
	deptest.List{
		Allowed: map[string]string{
			"agent/...":                  "itself",
			"coordinator/follow/...":     "its side of the coordinator's protocol",
			"relay/frame/...":            "the frames it speaks with relays",
			"relay/client/...":           "its side of a connection to a relay",
			"relay/internal/outbox":      "of relay/client: packets that wait for the relay",
			"relay/internal/socket":      "of relay/client: deadlines and buffers of its connection",
			"relay/stun/...":             "it asks relays for its outside address",
			"coordinator/key/...":        "keys, identifiers and the TLS made of them",
			"coordinator/acl/...":        "what a rule means",
			"coordinator/leaf/...":       "leaves, their tree and their proofs",
			"coordinator/trust/...":      "roots, manifests and the verifier",
			"coordinator/papers/...":     "admissions and records",
			"coordinator/netmap/...":     "what one node must know",
			"coordinator/wire/...":       "the calls to the coordinator",
			"coordinator/statefile/...":  "state files that tell when they are damaged",
			"github.com/alecthomas/kong": "flags and help of the command",

			"golang.org/x/mod/sumdb/note": "signed notes (C2SP)",
			"golang.org/x/mod/sumdb/tlog": "Merkle trees and proofs (RFC 6962)",

			"connectrpc.com/connect":                                  "the protocol to the coordinator",
			"connectrpc.com/connect/internal/gen/connectext/grpc/...": "of connect: errors with details",
			"google.golang.org/protobuf/...":                          "the messages of that protocol",

			"golang.zx2c4.com/wireguard/conn":        "the seam where paths are chosen",
			"golang.zx2c4.com/wireguard/device":      "WireGuard itself",
			"golang.zx2c4.com/wireguard/ipc":         "of device: its configuration texts",
			"golang.zx2c4.com/wireguard/ratelimiter": "of device: handshakes per address",
			"golang.zx2c4.com/wireguard/replay":      "of device: the replay window",
			"golang.zx2c4.com/wireguard/rwcancel":    "of tun: reads that end",
			"golang.zx2c4.com/wireguard/tai64n":      "of device: handshake timestamps",
			"golang.zx2c4.com/wireguard/tun":         "the kernel's network device and its interface",

			"github.com/vishvananda/netlink/...": "addresses, routes and rules of the kernel, without running a program",
			"github.com/vishvananda/netns":       "of vishvananda/netlink: sockets in a network namespace",
			"github.com/google/nftables/...":     "the node's own packet filter table, without running a program",
			"github.com/mdlayher/netlink/...":    "of nftables: its messages",
			"github.com/mdlayher/socket":         "of mdlayher/netlink: its sockets",

			"gvisor.dev/gvisor/pkg/...": "TCP/IP without privileges, for userspace and embedded nodes",
			"github.com/google/btree":   "of gvisor: reassembly and neighbours",
			"golang.org/x/time/rate":    "of gvisor: ICMP rate limits",

			"golang.org/x/crypto/blake2s":           "of WireGuard (RFC 7693)",
			"golang.org/x/crypto/chacha20":          "of WireGuard (RFC 8439)",
			"golang.org/x/crypto/chacha20poly1305":  "of WireGuard (RFC 8439)",
			"golang.org/x/crypto/curve25519":        "of WireGuard (RFC 7748)",
			"golang.org/x/crypto/poly1305":          "of WireGuard: cookies",
			"golang.org/x/crypto/internal/alias":    "of chacha20",
			"golang.org/x/crypto/internal/poly1305": "of chacha20poly1305",
			"golang.org/x/net/bpf":                  "of wireguard/conn: socket filters",
			"golang.org/x/net/ipv4":                 "of wireguard/conn: batches of datagrams",
			"golang.org/x/net/ipv6":                 "of wireguard/conn: batches of datagrams",
			"golang.org/x/net/internal/iana":        "of ipv4 and ipv6: numbers",
			"golang.org/x/net/internal/socket":      "of ipv4 and ipv6: recvmmsg and sendmmsg",
			"golang.org/x/sync/...":                 "waiting for goroutines and their errors",
			"golang.org/x/sys/cpu":                  "of chacha20poly1305: which instructions there are",
			"golang.org/x/sys/unix":                 "sockets, TUN, peer credentials, file locks",

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
			"policy/...":                           "an agent is given compiled leaves and never reads policy",
			"cue/...":                              "an agent is given compiled leaves and never reads policy",
			"sync/...":                             "who signs is not who obeys",
			"coordinator/internal/...":             "the server's own; agents share its words only",
			"cuelang.org/go/...":                   "a language evaluator in a process that is root everywhere",
			"github.com/open-policy-agent/opa/...": "a language evaluator in a process that is root everywhere",
			"github.com/go-git/...":                "policy is read from Git by sync alone",
			"github.com/hashicorp/go-memdb/...":    "the coordinator's working set",
			"go.etcd.io/...":                       "the coordinator's store",
		},
	}.Check(t, "./agent/...")
}
