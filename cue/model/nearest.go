package model

import (
	"slices"
	"strconv"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// Nearest is the known name that a name was probably meant to be, empty where none
// is near.
func Nearest(name string, known []string) string { return nearest(name, slices.Clone(known)) }

// wellKnown are ports by the names that people know them by (IANA), where they are
// those of one service everywhere.
var wellKnown = map[string]string{
	"ssh": "tcp/22", "http": "tcp/80", "https": "tcp/443", "dns": "udp/53", "ntp": "udp/123", "smtp": "tcp/25", "ldap": "tcp/389",
	"ldaps": "tcp/636", "smb": "tcp/445", "rdp": "tcp/3389", "mysql": "tcp/3306", "postgres": "tcp/5432", "postgresql": "tcp/5432",
	"ping": "icmp", "gre": "proto/47", "esp": "proto/50",
}

// NearestPorts is what a text that is no port was probably meant to be, empty where
// nothing is near.
func NearestPorts(text string) string {
	low := strings.ToLower(strings.ReplaceAll(text, " ", ""))
	if known := wellKnown[low]; known != "" {
		return known
	}
	valid := func(s string) bool {
		_, err := acl.ParsePorts(s)
		return err == nil && s != text
	}
	if valid("tcp/" + low) {
		return "tcp/" + low
	}
	name, port := low, ""
	if i := strings.IndexAny(low, "/:"); i >= 0 {
		name, port = low[:i], low[i+1:]
	}
	protos := []string{"tcp", "udp", "sctp", "proto", "icmp"}
	for _, swapped := range [][2]string{{name, port}, {port, name}} { // 22/tcp
		proto, port := swapped[0], swapped[1]
		if !slices.Contains(protos, proto) {
			proto = nearest(proto, slices.Clone(protos))
		}
		switch whole := proto + "/" + port; {
		case proto == "":
		case proto == "icmp" && (port == "" || port == "*"):
			return "icmp"
		case valid(whole):
			return whole
		}
	}
	return ""
}

// meantPorts is what a port in a list was probably meant to be: a service of that
// name, or else the nearest.
func (d *decoder) meantPorts(text string) string {
	if d.root != nil {
		if block := d.root.field("services"); block != nil && block.field(text) != nil {
			return "service:" + text
		}
	}
	return NearestPorts(text)
}

// didYouMean is the end of a message about a name that is not known.
func didYouMean(near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + quoteName(near) + "?"
}

// nearest is the candidate that name was probably meant to be, empty when none
// is near. Of equally near ones it is the first by name.
func nearest(name string, candidates []string) string {
	// A quarter of the letters may be wrong, and one more: "from" for "form",
	// but not for "to".
	best, limit := "", 1+len(name)/4
	slices.Sort(candidates)
	for _, c := range candidates {
		if d := distance(name, c, limit); c != name && d < len(c) && d < len(name) && (d < limit || d == limit && best == "") {
			best, limit = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, drop, change or swap with their
// neighbour to come from a to b, without regard to case; any number above limit
// when it is more than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 100 {
		return limit + 1
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// quoteName quotes a name that somebody else wrote: characters that are
// invisible, or look like others, show as code points, and a long one is cut.
func quoteName(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
