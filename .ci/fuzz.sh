#!/usr/bin/env bash
# fuzz.sh FUZZTIME PACKAGE... finds every fuzz target of the packages and runs
# each for FUZZTIME. A target that fails does not keep the others from running.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:?usage: fuzz.sh FUZZTIME PACKAGE...}
shift

targets=$(go list -e -f '{{$p := .}}
{{- range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}
{{- range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}' "$@")

run=0 failed=()
while read -r package file; do
	if [ -z "$file" ]; then continue; fi
	while read -r name; do
		if [ -z "$name" ]; then continue; fi
		run=$((run + 1))
		echo "== $package $name ($fuzztime)"
		if ! go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package" </dev/null; then
			failed+=("$package $name")
		fi
	done <<<"$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file")"
done <<<"$targets"

if [ "$run" -eq 0 ]; then
	echo "fuzz: no fuzz target in $*" >&2
	exit 2
fi
echo "fuzz: $run targets for $fuzztime each, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	printf '  FAIL %s\n' "${failed[@]}"
	echo "  the inputs are under testdata/fuzz of the package; commit them with the fix"
	exit 1
fi
