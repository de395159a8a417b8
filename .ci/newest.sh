#!/usr/bin/env bash
# newest.sh moves every direct dependency to its newest release, for the nightly
# run that tells early what an update will break. gVisor is not asked for: it
# stays at the version that wireguard-go requires. It rewrites go.mod and go.sum,
# so it runs only in a clean tree.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "$(git status --porcelain)" ]; then
	echo "newest: the tree has changes; run this in a clean clone" >&2
	exit 2
fi
modules=$(go list -m -f '{{if not (or .Main .Indirect)}}{{.Path}}{{end}}' all)
for module in $modules; do
	if [ "$module" = gvisor.dev/gvisor ]; then continue; fi
	go get "$module@latest"
done
go mod tidy
git --no-pager diff --stat
