#!/usr/bin/env bash
# setup.sh build|test installs the Debian packages that the purpose needs and
# that are missing; when nothing is missing it says so and takes no time.
#
# Without root nothing is installed: what is missing is listed loudly, and the
# tests that need it report themselves as skipped. With CI=true it is a failure
# instead (and a runner's password-less sudo is used where there is one).
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:?usage: setup.sh build|test}

# What shows that it is there (a program, or a file) | package | purpose | why.
table=$(cat <<'TABLE'
/etc/ssl/certs/ca-certificates.crt | ca-certificates | build | to fetch Go modules over TLS
git                                | git             | test  | the reference for commit signatures and trees
curl                               | curl            | test  | README.md calls a webhook and a server with it
ssh-keygen                         | openssh-client  | test  | the reference for SSH signatures and allowed_signers
gcc                                | gcc             | test  | the race detector links with cgo
chromium                           | chromium        | test  | the page that policy diff --html writes, as a browser shows it
jq                                 | jq              | test  | the action for GitHub and the template for GitLab read answers with it
ip                                 | iproute2        | test  | the reference for addresses, routes and rules
nft                                | nftables        | test  | the reference for packet filter tables
/usr/include/stdlib.h              | libc6-dev       | test  | the race detector links with cgo
TABLE
)
if [ -n "$(find coordinator -name '*.proto' -print -quit 2>/dev/null)" ]; then
	table+=$'\nprotoc | protobuf-compiler | test | to see that the committed stubs are those of the .proto'
fi

# Debian keeps some programs where a user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

if ! command -v go >/dev/null; then
	echo "setup: go is not in PATH; install Go $(awk '$1 == "go" { print $2 }' go.mod) or newer from https://go.dev/dl/" >&2
	exit 1
fi

packages=() lines=() looked=0
while IFS='|' read -r probe package for why; do
	read -r probe <<<"$probe"
	read -r package <<<"$package"
	read -r for <<<"$for"
	if [ "$for" = test ] && [ "$purpose" = build ]; then continue; fi
	looked=$((looked + 1))
	case $probe in
	/*) if [ -e "$probe" ]; then continue; fi ;;
	*) if command -v "$probe" >/dev/null; then continue; fi ;;
	esac
	packages+=("$package")
	lines+=("  $package:$why")
done <<<"$table"

if [ ${#packages[@]} -eq 0 ]; then
	if [ "$purpose" = test ]; then echo "setup: all $looked system packages are here"; fi
	exit 0
fi

as=()
if [ "$(id -u)" -ne 0 ] && [ "${CI:-}" = true ] && command -v sudo >/dev/null; then as=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || [ ${#as[@]} -gt 0 ]; }; then
	echo "setup: installing Debian packages:"
	printf '%s\n' "${lines[@]}"
	install=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}")
	# The package lists are fetched only where those at hand do not serve.
	if ! "${install[@]}" >/dev/null 2>&1; then
		"${as[@]}" apt-get update -q
		"${install[@]}"
	fi
	exit 0
fi

echo "setup: ****************************************************************" >&2
echo "setup: MISSING, and not installed without root and apt-get:" >&2
printf '%s\n' "${lines[@]}" >&2
echo "setup: install them with: apt-get install ${packages[*]}" >&2
echo "setup: ****************************************************************" >&2
# To build is to try: a machine may keep its certificates elsewhere.
if [ "${CI:-}" = true ] && [ "$purpose" = test ]; then exit 1; fi
