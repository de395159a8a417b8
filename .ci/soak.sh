#!/usr/bin/env bash
# soak.sh COUNT FUZZTIME PACKAGE... looks for what shows only now and then:
# every package under the race detector COUNT times in shuffled order, every
# property with a hundred times its usual cases, every fuzz target for FUZZTIME.
# Hostile policies get the limits that programs give them (WRIT_SOAK).
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:?usage: soak.sh COUNT FUZZTIME PACKAGE...}
fuzztime=${2:?usage: soak.sh COUNT FUZZTIME PACKAGE...}
shift 2
.ci/setup.sh test
export WRIT_SOAK=1
mkdir -p .cache
go build -o .cache/gotest ./.ci/gotest
failed=0
CGO_ENABLED=1 .cache/gotest -label soak -- -race -shuffle on -count "$count" -timeout 6h "$@" || failed=1
properties=$(.ci/having.sh '"pgregory.net/rapid"' "$@")
if [ -n "$properties" ]; then
	# 100 is what rapid does unasked.
	# shellcheck disable=SC2086 # one package per line
	.cache/gotest -label properties -- -count 1 -timeout 6h $properties -args -rapid.checks 10000 || failed=1
fi
.ci/fuzz.sh "$fuzztime" "$@" || failed=1
exit $failed
