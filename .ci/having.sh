#!/usr/bin/env bash
# having.sh REGEXP PACKAGE... prints the packages of which a Go file, tests
# included, has a line that matches.
set -euo pipefail
cd "$(dirname "$0")/.."
pattern=${1:?usage: having.sh REGEXP PACKAGE...}
shift
files=$(go list -e -f '{{$p := .}}
{{- range .GoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}
{{- range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}
{{- range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}{{"\n"}}{{end}}' "$@")
last=
while read -r package file; do
	if [ -z "$file" ] || [ "$package" = "$last" ]; then continue; fi
	if grep -qE -- "$pattern" "$file"; then
		echo "$package"
		last=$package
	fi
done <<<"$files"
