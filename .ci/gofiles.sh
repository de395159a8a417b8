#!/usr/bin/env bash
# gofiles.sh [PACKAGE...] prints the Go files in the folders of the packages, of
# every platform, or of the whole tree and the tools under .ci.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ] || [ "$*" = ./... ]; then
	find . \( -path ./.git -o -path ./.cache -o -path ./bin \) -prune -o -name '*.go' -type f -print
else
	dirs=$(go list -e -f '{{.Dir}}' "$@")
	# shellcheck disable=SC2086 # one folder per line, none with spaces
	find $dirs -maxdepth 1 -name '*.go' -type f -print
fi
