#!/usr/bin/env bash
# vuln.sh asks govulncheck whether the tree calls anything with a known
# vulnerability. Its database is on the Internet: where it cannot be reached the
# check is skipped, also with CI=true, and that is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
# Twenty seconds: a machine that drops packets must not hold up the rest.
about=$(timeout 20 go tool govulncheck -version 2>&1) || true
case $about in
*'DB updated:'*) ;;
*)
	echo "vulnerabilities: SKIPPED: the database of govulncheck cannot be reached from here"
	exit 0
	;;
esac
go tool govulncheck ./...
