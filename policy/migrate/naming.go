package migrate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxTitle is the longest comment that becomes a rule's name, in bytes: a headline,
// not a paragraph.
const maxTitle = 48

// titled is a name made of the first line of comments, or nothing.
func titled(comments []string) string {
	if len(comments) == 0 {
		return ""
	}
	text := strings.TrimRight(comments[0], ".: ")
	if i := strings.Index(text, ". "); i > 0 {
		text = text[:i]
	}
	text = strings.Trim(ticket.ReplaceAllString(text, ""), " :-()[],")
	s := slug(text)
	if len(text) > maxTitle || len(s) < 3 || s[0] < 'a' || s[0] > 'z' || len(strings.Split(s, "-")) > 8 {
		return ""
	}
	return s
}

// between names a rule by who reaches what.
func between(r *rule) string {
	name := short(r.from) + "-to-" + short(r.to)
	if s := portName(r.allow); s != "" {
		name += "-" + s
	}
	return name
}

// short is a few letters for a list of selectors.
func short(list []string) string {
	if len(list) == 0 {
		return "nobody"
	}
	list = families(list)
	one := list[0]
	kind, name, _ := strings.Cut(one, ":")
	switch {
	case slices.Contains(list, "*"):
		return "all"
	case one == "autogroup:member":
		name = "members"
	case one == "autogroup:self":
		name = "own-nodes"
	case kind == "group", kind == "tag", kind == "autogroup", kind == "host":
	case strings.Contains(one, "@"):
		name, _, _ = strings.Cut(one, "@")
	default:
		name = strings.ReplaceAll(one, "/", "-")
		if strings.Contains(name, ":") {
			name = slug(name)
		}
		return more(name, list)
	}
	return more(slug(name), list)
}

// families are the selectors with the hosts of one ipset as one.
func families(list []string) []string {
	var out []string
	for _, s := range list {
		if i := strings.LastIndexByte(s, '/'); i >= 0 && strings.HasPrefix(s, "host:") {
			s = s[:i]
		}
		out = appendNew(out, s)
	}
	return out
}

func more(name string, list []string) string {
	if len(list) > 1 {
		return fmt.Sprintf("%s-and-%d-more", name, len(list)-1)
	}
	return name
}

// known are the ports that people call by a name.
var known = map[string]string{
	"22": "ssh", "53": "dns", "80": "http", "443": "https", "3389": "rdp", "3306": "mysql", "5432": "postgres", "6379": "redis",
}

// portName is a word for ports, where they are one.
func portName(allow []string) string {
	var port string
	for _, a := range allow {
		_, number, ok := strings.Cut(a, "/")
		switch {
		case a == "icmp" && len(allow) == 1:
			return "ping"
		case a == "icmp":
			continue
		case !ok || port != "" && port != number:
			return ""
		}
		port = number
	}
	if name := known[port]; name != "" {
		return name
	}
	if _, err := strconv.Atoi(port); err != nil {
		return ""
	}
	return port
}
