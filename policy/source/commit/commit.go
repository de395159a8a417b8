// Package commit reads the bytes of a Git commit object, strictly.
//
// A signature covers bytes, so whoever checks one must read the very bytes that
// Git stores, and read them as Git does. Everything here works on those raw
// bytes; nothing is parsed and written out again.
//
// A commit object is header lines, one empty line, and the message:
//
//	tree <40 hex>
//	parent <40 hex>                  none, one or more
//	author <name> <<email>> <unix seconds> <+hhmm>
//	committer <name> <<email>> <unix seconds> <+hhmm>
//	<name> <value>                   any others: encoding, gpgsig, mergetag ...
//	 <continuation of the value>     begins with one space, which is dropped
//
//	message
//
// There are two readers. Links takes only the lines tree and parent, as Git
// itself does when it walks a history: it is for commits long since accepted,
// which may be odd in any way that Git let pass. Parse is for a commit about to
// be believed. It refuses:
//
//   - more than MaxSize bytes, more than MaxParents parents, more than
//     MaxHeaders other headers
//   - a NUL byte anywhere, or text that is not UTF-8
//   - tree, parent, author or committer missing, repeated or out of order
//   - a hash that is not 40 lower-case hexadecimal digits (a SHA-256 repository
//     is refused by this)
//   - a name or e-mail with angle brackets or control characters, a time with
//     a sign or leading zeros or past the year 9999, a zone that is not +hhmm
//   - gpgsig or encoding twice, any other header whose name begins with gpgsig
//     (Git strips those from the signed bytes), an encoding that is not UTF-8
//   - a header line without a space, a control character in one, a continuation
//     line with no header above it
//   - the empty line missing
package commit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pjbgf/sha1cd"
)

const (
	// MaxSize bounds a commit object. A message of a megabyte is no message.
	MaxSize = 1 << 20
	// MaxParents bounds a merge. Octopus merges of a few dozen branches exist.
	MaxParents = 64
	// MaxHeaders bounds the headers beyond the four; a merge of signed tags
	// carries one mergetag for each.
	MaxHeaders = 128

	// hashLen is the length of a SHA-1 in hexadecimal.
	hashLen = 40
	// latest is the last second of the year 9999, which every date format holds.
	latest = 253402300799
)

// A Commit is what a commit object says.
type Commit struct {
	Tree              string
	Parents           []string
	Author, Committer Ident
	Headers           []Header // those beyond tree, parent, author, committer, in order
	Message           string
}

// An Ident is somebody, at a time. The time is in UTC: the zone is checked and
// dropped, so that the same commit reads alike everywhere.
type Ident struct {
	Name, Email string
	When        time.Time
}

// A Header is one header; the lines of its value are joined by newlines.
type Header struct{ Name, Value string }

// ID returns the name that Git gives an object: the SHA-1 of kind, size and
// content. Content built to collide with another is an error.
func ID(kind string, content []byte) (string, error) {
	header := append([]byte(kind+" "+strconv.Itoa(len(content))), 0)
	return digest(header, content)
}

func digest(parts ...[]byte) (string, error) {
	h := sha1cd.New().(sha1cd.CollisionResistantHash)
	for _, p := range parts {
		h.Write(p)
	}
	sum, collision := h.CollisionResistantSum(nil)
	if collision {
		return "", errors.New("content is one half of a SHA-1 collision")
	}
	return hex.EncodeToString(sum), nil
}

// IsID reports whether s is the full name of an object.
func IsID(s string) bool {
	if len(s) != hashLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Links returns the tree and the parents, and looks at nothing else.
func Links(raw []byte) (tree string, parents []string, err error) {
	rest := raw
	if tree, rest, err = link(rest, "tree "); err != nil {
		return "", nil, err
	}
	for bytes.HasPrefix(rest, []byte("parent ")) {
		if len(parents) == MaxParents {
			return "", nil, fmt.Errorf("more than %d parents", MaxParents)
		}
		var p string
		if p, rest, err = link(rest, "parent "); err != nil {
			return "", nil, err
		}
		parents = append(parents, p)
	}
	return tree, parents, nil
}

func link(b []byte, prefix string) (id string, rest []byte, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	id, is := strings.CutPrefix(string(line[:min(len(line), len(prefix)+hashLen+1)]), prefix)
	if !ok || !is {
		return "", nil, fmt.Errorf("no %q line", strings.TrimSpace(prefix))
	}
	if !IsID(id) {
		return "", nil, fmt.Errorf("%sis not 40 lower-case hexadecimal digits", prefix)
	}
	return id, rest, nil
}

// Parse reads a commit object, strictly.
func Parse(raw []byte) (Commit, error) {
	if len(raw) > MaxSize {
		return Commit{}, fmt.Errorf("commit object has %d bytes; the limit is %d", len(raw), MaxSize)
	}
	if bytes.IndexByte(raw, 0) >= 0 {
		return Commit{}, errors.New("NUL byte")
	}
	if !utf8.Valid(raw) {
		return Commit{}, errors.New("text is not UTF-8")
	}
	head, message, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		return Commit{}, errors.New("no empty line after the headers")
	}
	c := Commit{Message: string(message)}
	headers, err := split(string(head))
	if err != nil {
		return Commit{}, err
	}
	next := func(name string) (string, bool) {
		if len(headers) == 0 || headers[0].Name != name {
			return "", false
		}
		v := headers[0].Value
		headers = headers[1:]
		return v, true
	}
	if c.Tree, ok = next("tree"); !ok || !IsID(c.Tree) {
		return Commit{}, errors.New("first line is not a tree of 40 lower-case hexadecimal digits")
	}
	for {
		p, ok := next("parent")
		if !ok {
			break
		}
		if !IsID(p) {
			return Commit{}, errors.New("parent is not 40 lower-case hexadecimal digits")
		}
		if len(c.Parents) == MaxParents {
			return Commit{}, fmt.Errorf("more than %d parents", MaxParents)
		}
		c.Parents = append(c.Parents, p)
	}
	for _, who := range []struct {
		name string
		to   *Ident
	}{{"author", &c.Author}, {"committer", &c.Committer}} {
		v, ok := next(who.name)
		if !ok {
			return Commit{}, fmt.Errorf("no %s line in its place", who.name)
		}
		if *who.to, err = ident(v); err != nil {
			return Commit{}, fmt.Errorf("%s: %w", who.name, err)
		}
	}
	if len(headers) > MaxHeaders {
		return Commit{}, fmt.Errorf("more than %d further headers", MaxHeaders)
	}
	c.Headers = headers
	return c, c.checkHeaders()
}

// checkHeaders checks the headers after committer.
func (c Commit) checkHeaders() error {
	seen := make(map[string]bool)
	for _, h := range c.Headers {
		switch {
		case h.Name == "tree" || h.Name == "parent" || h.Name == "author" || h.Name == "committer":
			return fmt.Errorf("header %s repeated or out of order", h.Name)
		case strings.HasPrefix(h.Name, "gpgsig") && h.Name != "gpgsig":
			return fmt.Errorf("header %s is not supported", h.Name)
		case (h.Name == "gpgsig" || h.Name == "encoding") && seen[h.Name]:
			return fmt.Errorf("header %s twice", h.Name)
		case h.Name == "encoding" && !strings.EqualFold(h.Value, "UTF-8"):
			return fmt.Errorf("encoding %q: only UTF-8 is supported", h.Value)
		}
		seen[h.Name] = true
	}
	return nil
}

// split cuts the head into headers and joins continuation lines.
func split(head string) ([]Header, error) {
	var out []Header
	for line := range strings.SplitSeq(head, "\n") {
		if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			return nil, fmt.Errorf("control character %#x in the headers", line[i])
		}
		if more, ok := strings.CutPrefix(line, " "); ok {
			if len(out) == 0 {
				return nil, errors.New("continuation line with no header above it")
			}
			last := &out[len(out)-1]
			switch last.Name {
			case "tree", "parent", "author", "committer", "encoding":
				return nil, fmt.Errorf("header %s is continued on another line", last.Name)
			}
			last.Value += "\n" + more
			continue
		}
		name, value, ok := strings.Cut(line, " ")
		if !ok || name == "" {
			return nil, errors.New("header line without a name and a space")
		}
		if len(out) > MaxHeaders+MaxParents+4 {
			return nil, errors.New("too many headers")
		}
		out = append(out, Header{name, value})
	}
	return out, nil
}

// ident reads "name <email> seconds zone".
func ident(s string) (Ident, error) {
	name, rest, ok := strings.Cut(s, " <")
	if !ok || name == "" {
		return Ident{}, errors.New("no name and e-mail")
	}
	email, rest, ok := strings.Cut(rest, "> ")
	if !ok {
		return Ident{}, errors.New("e-mail does not end in '> '")
	}
	if strings.ContainsAny(name+email, "<>\t") {
		return Ident{}, errors.New("angle bracket or tab in the name or e-mail")
	}
	secs, zone, ok := strings.Cut(rest, " ")
	if !ok {
		return Ident{}, errors.New("no time and zone")
	}
	t, err := strconv.ParseUint(secs, 10, 63)
	if err != nil || t > latest || strconv.FormatUint(t, 10) != secs {
		return Ident{}, fmt.Errorf("time %.24q is not seconds since 1970", secs)
	}
	if len(zone) != 5 || zone[0] != '+' && zone[0] != '-' || strings.Trim(zone[1:], "0123456789") != "" {
		return Ident{}, fmt.Errorf("zone %.8q is not +hhmm", zone)
	}
	return Ident{Name: name, Email: email, When: time.Unix(int64(t), 0).UTC()}, nil
}
