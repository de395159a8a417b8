#!/usr/bin/env bash
# benchlab.sh measures the programs in bin/ in the laboratory (examples/lab) and
# prints the figures. LAB=regexp chooses measurements, ROUNDS how often each is
# repeated (ten), FIGURES a directory that gets every single figure, and EXPLAIN a
# number of seconds above which a time is explained by what the programs logged.
# All of them take a quarter of an hour and a machine that does nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin WRIT_BIN=${WRIT_BIN:-$PWD/bin}
if [ "$(id -u)" -ne 0 ]; then
	echo "bench-lab: network namespaces need root (sudo make bench-lab)" >&2
	exit 1
fi
if [ -n "${FIGURES:-}" ]; then
	mkdir -p "$FIGURES"
	FIGURES=$(cd "$FIGURES" && pwd)
	export FIGURES
fi
mkdir -p .cache
go test -c -tags 'lab bench' -o .cache/benchlab.test ./examples/lab
cd examples/lab
exec ../../.cache/benchlab.test -test.timeout 2h -test.run "${LAB:-^TestMeasure}"
