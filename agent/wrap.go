package main

import (
	"strings"
	"unicode/utf8"
)

// columns is how wide what is printed for people may be.
const columns = 80

// wrap breaks a line between words where it would be wider than columns. What
// goes on is indented.
func wrap(line string) string {
	var out strings.Builder
	width := 0
	for i, word := range strings.Split(line, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case width+1+n > columns:
			out.WriteString("\n  ")
			width = 2
		default:
			out.WriteByte(' ')
			width++
		}
		out.WriteString(word)
		width += n
	}
	return out.String()
}
