// Sync watches a policy repository and turns its commits into what the network
// obeys: it verifies who signed, builds, runs the tests, computes who gains and
// loses access, signs the result, hands it to the coordinators, admits nodes, and
// says how far each revision is enforced.
//
// Installed it is called writ-sync: "sync" is a program of coreutils.
//
// Usage:
//
//	sync run --state DIR --repo URL --root FILE --policy-key FILE
//	         --admission-key FILE --seal-key FILE --coordinator ADDR=PIN [flags]
//	sync status --state DIR [--json]
//	sync inventory --state DIR
//	sync --version
//
// Flags of run:
//
//	--state DIR            sync's state: what it signed, and the admission log
//	--repo URL             a path, file://, http:// or https:// URL
//	--branch NAME          the branch to follow (default main)
//	--credentials FILE     for http(s): a token, or user:password
//	--root FILE            root document; version 1 first, repeated for later ones
//	--policy-key FILE      signs manifests
//	--admission-key FILE   signs admissions and ended lists
//	--seal-key FILE        opens join proofs
//	--coordinator ADDR=PIN where to publish; may be repeated
//	--poll DURATION        between fetches without a webhook (default 30s)
//	--webhook ADDR         listen for a forge's webhooks
//	--webhook-secret FILE  their shared secret; required with --webhook
//	--metrics ADDR         serve Prometheus metrics at http://ADDR/metrics
//	--log LEVEL            debug, info, warn or error (default info)
//
// Files in DIR: revision.state (the newest revision, written before it is
// signed), admissions.log and admissions.head (the inventory), git/ (objects of
// the repository), sync.sock (status). Losing revision.state or the log means
// that nothing is signed until they are recovered.
//
// Exit codes: 0 done; 1 status: the branch's head is not applied, or not enforced
// everywhere, or a coordinator or the repository is not reached; 2 usage, or sync
// could not do it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/writmesh/writ/policy/build"
)

// version is stamped by the linker.
var version = "devel"

func main() {
	build.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
