#!/usr/bin/env bash
# comment.sh keeps one comment on a pull request: it writes the report over the
# one of before, or writes a new one. It touches no comment but its own, which
# begins with its mark and was written by a bot: anybody can write the mark.
#
# From a fork the token may read only. That is no failure: the report is in the
# step's summary.
set -euo pipefail

mark="<!-- writ policy: $DIRECTORY -->"
body=$(mktemp)
answer=$(mktemp)
trap 'rm -f "$body" "$answer"' EXIT
jq -n --arg mark "$mark" --rawfile report "$REPORT/report.md" '{body: ($mark + "\n" + $report)}' >"$body"
comments=$GITHUB_API_URL/repos/$GITHUB_REPOSITORY/issues

# call METHOD ADDRESS [FILE] puts the answer into $answer and its code into $code.
# The token comes by a pipe: other processes see a command's arguments.
call() {
	local data=()
	if [ $# -eq 3 ]; then data=(--data-binary "@$3"); fi
	code=$(curl --silent --show-error --max-time 30 --retry 2 --request "$1" --config - \
		--header 'Accept: application/vnd.github+json' --header 'X-GitHub-Api-Version: 2022-11-28' \
		--header 'Content-Type: application/json' \
		"${data[@]}" --output "$answer" --write-out '%{http_code}' "$2" <<<"header = \"Authorization: Bearer $TOKEN\"") || code=000
}

# failed says that something did not work, and whether that matters.
failed() {
	case $code in
	401 | 403 | 404)
		echo "::notice::policy: the token may not $1 (HTTP $code); the report is in the step's summary"
		exit 0
		;;
	esac
	echo "::error::policy: could not $1 (HTTP $code)"
	exit 1
}

id=
for page in $(seq 1 50); do
	call GET "$comments/$NUMBER/comments?per_page=100&page=$page"
	if [ "$code" != 200 ]; then failed "read the comments"; fi
	id=$(jq -r --arg mark "$mark" '[.[] | select(.user.type == "Bot" and (.body // "" | startswith($mark)))][0].id // empty' "$answer")
	if [ -n "$id" ] || [ "$(jq length "$answer")" -lt 100 ]; then break; fi
done
if [ -n "$id" ]; then
	call PATCH "$comments/comments/$id" "$body"
else
	call POST "$comments/$NUMBER/comments" "$body"
fi
case $code in 200 | 201) echo "policy: the comment is up to date" ;; *) failed "write the comment" ;; esac
