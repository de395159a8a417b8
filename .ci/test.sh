#!/usr/bin/env bash
# test.sh [PACKAGE...] is `make test`: every check and test of the packages, and
# for the whole tree also those that only the whole can answer. It installs what
# it needs, runs every step even after one failed, and ends with the totals.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then set -- ./...; fi
whole=false
if [ "$*" = ./... ]; then whole=true; fi
mkdir -p .cache
: >.cache/totals
. .ci/steps.sh

# A package is concurrent where it starts goroutines, shares memory, or serves.
# sync.Once alone, which tests use to make a fixture, shares nothing.
concurrent='^[[:space:]]*go (func|[a-zA-Z_.]+)\(|\bsync\.(Mutex|RWMutex|WaitGroup|Map|Cond|Pool)\b|\batomic\.|^(import)?[[:space:]]*([a-z]+ )?"(testing/synctest|golang.org/x/sync/[a-z]+|net/http|net/http/httptest|connectrpc.com/connect)"$'

unit() { .cache/gotest -label unit -totals .cache/totals -- -timeout 5m "$@"; }
race() {
	local packages
	# examples/ci runs whole programs, built without the detector: nothing to find there.
	packages=$(.ci/having.sh "$concurrent" "$@" | grep -v '/examples/ci$') || return 1
	if [ -z "$packages" ]; then
		echo "no concurrent package"
		return 0
	fi
	# shellcheck disable=SC2086 # one package per line
	CGO_ENABLED=1 .cache/gotest -label race -totals .cache/totals -- -race -timeout 5m $packages
}

step setup .ci/setup.sh test
step runner go test ./.ci/gotest
go build -o .cache/gotest ./.ci/gotest
step format formatted "$@"
step vet go vet -tags lab,bench "$@" ./.ci/gotest
step staticcheck go tool staticcheck -tags lab,bench "$@" ./.ci/gotest
if $whole; then
	step modules go mod tidy -diff
	step stubs .ci/generate.sh --check
	step vulnerabilities .ci/vuln.sh
fi
step unit unit "$@"
step race race "$@"
if $whole; then
	step build make --no-print-directory build
	step examples .ci/examples.sh
	step lab .ci/lab.sh test
fi
finish "make test"
