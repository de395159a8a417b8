package document

import (
	"regexp"
	"slices"
	"strings"
)

// varying is what differs from run to run, and what stands for it.
var varying = []struct {
	is *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`\b(net|nid|idpub|enrol):[a-z2-7]{52}\b`), "$1:KEY"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`100\.64\.0\.[0-9]+`), "100.64.0.N"},
	{regexp.MustCompile(`203\.0\.113\.[0-9]+(:[0-9]+)?`), "203.0.113.N"},
	{regexp.MustCompile(`\bfd[0-9a-f]{2}(:[0-9a-f]{0,4}){2,7}`), "IPV6"},
	{regexp.MustCompile(`\bport [0-9]{4,5}\b`), "port PORT"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2} UTC)?`), "DATE"},
	{regexp.MustCompile(`\(1, [0-9]{10}\)`), "(1, SEQ)"},
	{regexp.MustCompile(`\b[0-9a-f]{7}\b`), "COMMIT"},
	{regexp.MustCompile(`\b[0-9]+(\.[0-9]+)? ?(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\b[0-9]+(\.[0-9]+)? k?B\b`), "SIZE"},
	{regexp.MustCompile(`(?m)^posture osVersion .*$`), "posture osVersion VERSION"}, // of the machine that runs this
	{regexp.MustCompile(`(\S) {2,}`), "$1 "},                                        // columns follow the widths of all these
	{regexp.MustCompile(`(?m) +$`), ""},
}

// Normalise puts the same words for whatever differs from run to run.
func Normalise(text string) string {
	for _, v := range varying {
		text = v.is.ReplaceAllString(text, v.by)
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := len(lines) - 1; i > 0; i-- {
		// Of probes that went the same way, one.
		if lines[i] == lines[i-1] && strings.HasPrefix(lines[i], "pong from ") {
			lines = slices.Delete(lines, i, i+1)
		}
	}
	return strings.Join(lines, "\n")
}
