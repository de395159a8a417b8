#!/usr/bin/env bash
# review.sh builds the policy program if there is none, and runs it once over the
# change: check, tests, guards and difference are one walk. It writes the report
# in every format, shows it in the log, as annotations and as the step's summary,
# and says in the step's outputs how it ended. It fails only where it could not do
# even that; the verdict is the last step's.
set -euo pipefail

# note writes one line of the runner's commands; its text is ours.
note() { printf '::%s::%s\n' "$1" "$2"; }

report=$(mktemp -d "$RUNNER_TEMP/policy-report.XXXXXX")
policy=${POLICY:-}
if [ -z "$policy" ]; then
	policy=$report.bin/policy
	go build -C "$GITHUB_ACTION_PATH/../../.." -buildvcs=false -o "$policy" ./policy
fi

# What to compare with: where the change branched off, or what was there before.
base=${BASE:-}
if [ -z "$base" ] && [ -n "${TARGET:-}" ]; then
	if ! base=$(git merge-base HEAD "$TARGET"); then
		note error "policy: the history does not reach to where the change branched off; check out with fetch-depth: 0"
		exit 1
	fi
elif [ -z "$base" ] && [ -n "${BEFORE:-}" ] && git cat-file -e "$BEFORE^{commit}" 2>/dev/null; then
	base=$BEFORE
fi
# A base without a policy has nothing to compare with: the change is the first.
if [ -n "$base" ]; then
	prefix=$(git -C "$DIRECTORY" rev-parse --show-prefix)
	if ! git ls-tree -r --name-only --full-tree "$base" ${prefix:+"$prefix"} | grep -c '\.cue"\{0,1\}$' >/dev/null; then
		note notice "policy: there is no policy in the base; everything in it is new"
		base=
	fi
fi

repository=$GITHUB_SERVER_URL/$GITHUB_REPOSITORY
args=(
	test "$DIRECTORY" --rev HEAD --coverage
	--link "$repository/blob" --details "$repository/actions/runs/$GITHUB_RUN_ID"
	--write "markdown=$report/report.md" --write "json=$report/report.json" --write "github=$report/annotations.txt"
	--write "junit=$report/junit.xml" --write "sarif=$report/report.sarif" --write "tap=$report/report.tap"
)
if [ -n "$base" ]; then args+=(--base "$base" --write "html=$report/report.html"); fi
if [ -n "${INVENTORY:-}" ]; then args+=(--inventory "$INVENTORY"); fi
code=0
"$policy" "${args[@]}" >"$report/report.txt" 2>"$report/errors.txt" || code=$?

# The report quotes the change, and a runner obeys commands wherever they stand in
# a log: until the token is said, it obeys none.
token=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
note stop-commands "$token"
cat "$report/report.txt" "$report/errors.txt"
printf '::%s::\n' "$token"

if [ ! -s "$report/report.md" ]; then
	# It ended before it could write a report: its options, or the repository.
	printf '<!-- writ policy report -->\n### ❌ Cannot tell: see the log of the run\n' >"$report/report.md"
	note error "policy: it could not be told; the log says why"
fi
if [ -f "$report/annotations.txt" ]; then cat "$report/annotations.txt"; fi
cat "$report/report.md" >>"$GITHUB_STEP_SUMMARY"
case $code in
0) result=pass ;;
1) result=fail ;;
*) result=unknown ;;
esac
{
	echo "result=$result"
	echo "report=$report"
	echo "artifact=${report##*/}"
} >>"$GITHUB_OUTPUT"
