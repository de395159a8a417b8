#!/usr/bin/env bash
# quick.sh [PACKAGE...] is `make quick`: formatting, vet and the short tests, for
# while one is working. It installs nothing and does not replace `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then set -- ./...; fi
mkdir -p .cache
: >.cache/totals
. .ci/steps.sh
go build -o .cache/gotest ./.ci/gotest
step format formatted "$@"
step vet go vet "$@"
step unit .cache/gotest -label unit -totals .cache/totals -- -short -timeout 1m "$@"
finish "make quick"
