#!/usr/bin/env bash
# lab.sh test|show runs the laboratory (examples/lab) on the programs in bin/: for
# `make test` as one of its steps, or for a person, with the table at the end.
# LAB=regexp chooses scenarios.
#
# Network namespaces need root. Without it nothing runs, which is said loudly;
# with CI=true it is a failure instead (and a runner's password-less sudo is used
# where there is one).
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?usage: lab.sh test|show}
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin WRIT_BIN=${WRIT_BIN:-$PWD/bin}

as=()
if [ "$(id -u)" -ne 0 ]; then
	if [ "${CI:-}" = true ] && command -v sudo >/dev/null && sudo -n true; then
		as=(sudo -n env "PATH=$PATH" "WRIT_BIN=$WRIT_BIN" "HOME=$HOME")
	else
		echo "lab: ****************************************************************" >&2
		echo "lab: NOTHING RAN: network namespaces need root (sudo make lab)" >&2
		echo "lab: ****************************************************************" >&2
		if [ "${CI:-}" = true ] || [ "$mode" = show ]; then exit 1; fi
		exit 0
	fi
fi

args=(-timeout 5m -run "${LAB:-.}")
if [ "$mode" = test ]; then
	if [ ${#as[@]} -gt 0 ]; then args+=(-exec "${as[*]}"); fi
	exec .cache/gotest -label lab -totals .cache/totals -- -tags lab -count 1 "${args[@]}" ./examples/lab
fi
mkdir -p .cache
go test -c -tags lab -o .cache/lab.test ./examples/lab
cd examples/lab
exec "${as[@]}" ../../.cache/lab.test "${args[@]/#-/-test.}"
