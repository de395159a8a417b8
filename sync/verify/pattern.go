package verify

import "strings"

// matchList reports whether s matches a list of patterns separated by commas:
// one of them, and none that begins with an exclamation mark.
func matchList(s, list string) bool {
	matched := false
	for p := range strings.SplitSeq(list, ",") {
		if not, ok := strings.CutPrefix(p, "!"); ok {
			if match(s, not) {
				return false
			}
		} else if match(s, p) {
			matched = true
		}
	}
	return matched
}

// match reports whether s matches a pattern: * stands for any bytes, ? for one.
// Its time is bounded by the product of the lengths: on a mismatch only the last
// star takes more.
func match(s, pattern string) bool {
	star, mark := -1, 0 // the last star, and where its run in s ends so far
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, mark = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == s[i]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[j:], "*") == ""
}
