#!/usr/bin/env bash
# examples.sh runs `policy test` on every policy repository under examples/: those
# that lie there, and one for each construct of the language.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
run=0 failed=()
for dir in examples/*/ examples/language/*/; do
	if [ -z "$(find "$dir" -maxdepth 1 -name '*.cue' -print -quit)" ]; then continue; fi
	run=$((run + 1))
	echo "== ${dir%/}"
	if ! bin/policy test "$dir"; then failed+=("${dir%/}"); fi
done
if [ "$run" -eq 0 ]; then
	echo "examples: there is no policy repository under examples/" >&2
	exit 2
fi
echo "examples: $run repositories, ${#failed[@]} failed"
if [ ${#failed[@]} -gt 0 ]; then
	printf '  FAIL %s\n' "${failed[@]}"
	exit 1
fi
