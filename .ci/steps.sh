# Sourced by test.sh and quick.sh: steps that are timed and counted. A step that
# fails does not keep the next from running; `finish` says what failed.

failed=() summary=()

# step NAME COMMAND... runs the command and notes how it ended and how long it took.
step() {
	local name=$1 start=$SECONDS result=ok
	shift
	echo "== $name"
	if ! "$@"; then
		result=FAIL
		failed+=("$name")
	fi
	summary+=("$(printf '%-5s%-16s%5d s' "$result" "$name" $((SECONDS - start)))")
}

# formatted PACKAGE... fails and names the files that gofmt would change.
formatted() {
	local files unformatted
	files=$(.ci/gofiles.sh "$@") || return 1
	if [ -z "$files" ]; then return 0; fi
	# shellcheck disable=SC2086 # one file per line, none with spaces
	unformatted=$(gofmt -l $files) || return 1
	if [ -n "$unformatted" ]; then
		echo "not gofmt-ed (make fmt mends it):"
		echo "$unformatted"
		return 1
	fi
	echo "$(wc -l <<<"$files") files"
}

# finish WHAT prints the summary and gives the exit code.
finish() {
	echo
	echo "== $1"
	printf '%s\n' "${summary[@]}"
	if [ -s .cache/totals ]; then cat .cache/totals; fi
	if [ ${#failed[@]} -gt 0 ]; then
		echo "$1: FAILED after $SECONDS s: ${failed[*]}"
		return 1
	fi
	echo "$1: all ${#summary[@]} steps passed in $SECONDS s"
}
