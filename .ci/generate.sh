#!/usr/bin/env bash
# generate.sh writes the Go stubs of every .proto of the tree beside it;
# generate.sh --check writes them elsewhere and says whether those committed are
# the same. The compiler's own version, which stands in a comment of its output,
# does not count; the plugins are those that go.mod pins.
set -euo pipefail
cd "$(dirname "$0")/.."
protos=$(find . \( -path ./.git -o -path ./.cache -o -path ./bin \) -prune -o -name '*.proto' -type f -printf '%P\n' | LC_ALL=C sort)
if [ -z "$protos" ]; then
	echo "generate: no .proto in the tree"
	exit 0
fi
if ! command -v protoc >/dev/null; then
	if [ "${1:-}" = --check ] && [ "${CI:-}" != true ]; then
		echo "generate: SKIPPED: protoc (Debian: protobuf-compiler) is not here, so the stubs are not compared" >&2
		exit 0
	fi
	echo "generate: protoc is not in PATH (Debian: protobuf-compiler)" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/tools/" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go

out=.
if [ "${1:-}" = --check ]; then
	out=$work/out
	mkdir "$out"
fi
# shellcheck disable=SC2086 # one path per line, none with spaces
protoc --plugin="$work/tools/protoc-gen-go" --plugin="$work/tools/protoc-gen-connect-go" -I . \
	--go_out="$out" --go_opt=paths=source_relative \
	--connect-go_out="$out" --connect-go_opt=paths=source_relative $protos
if [ "$out" = . ]; then exit 0; fi

differ=0 count=0
while read -r stub; do
	count=$((count + 1))
	if ! diff -u -I '^//[[:space:]]*protoc ' "$stub" "$out/$stub"; then differ=$((differ + 1)); fi
done <<<"$(find "$out" -name '*.go' -type f -printf '%P\n')"
echo "generate: $count stubs compared, $differ differ"
if [ "$differ" -gt 0 ]; then
	echo "generate: run make generate and commit what it writes" >&2
	exit 1
fi
