package verify

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxSigners bounds a list's bytes: some thousands of keys.
	maxSigners = 1 << 20
	// maxLine bounds a line; an RSA-16384 key has 3 KiB.
	maxLine = 16 << 10
)

// An AllowedSigners is a list in the format of ssh-keygen(1), ALLOWED SIGNERS.
// On each line:
//
//	principals [options] keytype base64-key [comment]
//
// Principals are patterns separated by commas, without spaces unless the whole
// is in double quotes; * stands for any characters, ? for one, and ! before a
// pattern excludes. Options, separated by commas, are namespaces="patterns",
// valid-after="time" and valid-before="time". A time is YYYYMMDD, YYYYMMDDHHMM or
// YYYYMMDDHHMMSS, and may end in Z. Empty lines and those that begin with # say
// nothing.
//
// It differs from ssh-keygen in two ways. A time without Z is in UTC too, where
// ssh-keygen takes the machine's zone: a list must mean the same everywhere. And
// any line that cannot be understood, that has cert-authority, or whose key is
// weak refuses the whole list, where ssh-keygen may find a signer in the lines
// before it.
type AllowedSigners struct {
	name  string
	lines []signerLine
}

type signerLine struct {
	line          int
	principals    string // patterns, separated by commas
	namespaces    string // patterns; "" means all
	after, before time.Time
	key           ssh.PublicKey
	wire          []byte // of key
}

// Len returns the number of keys listed.
func (a *AllowedSigners) Len() int { return len(a.lines) }

// ParseAllowedSigners reads a list. Errors begin with name:line.
func ParseAllowedSigners(name string, text []byte) (*AllowedSigners, error) {
	if len(text) > maxSigners {
		return nil, fmt.Errorf("%s: list has %d bytes; the limit is %d", name, len(text), maxSigners)
	}
	a := &AllowedSigners{name: name}
	n := 0
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		n++
		l, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if l != nil {
			l.line = n
			a.lines = append(a.lines, *l)
		}
	}
	return a, nil
}

const blanks = " \t"

func parseLine(line []byte) (*signerLine, error) {
	if len(line) > maxLine {
		return nil, fmt.Errorf("line is longer than %d bytes", maxLine)
	}
	s := strings.Trim(string(line), blanks+"\r")
	if s == "" || s[0] == '#' {
		return nil, nil
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == '\ufeff' }); i >= 0 {
		return nil, errors.New("control character or byte-order mark")
	}
	l := &signerLine{}
	s, err := l.parsePrincipals(s)
	if err != nil {
		return nil, err
	}
	keyType, _, _ := cutBlank(s)
	if !isKeyType(keyType) {
		if s, err = l.parseOptions(s); err != nil {
			return nil, err
		}
	}
	return l, l.parseKey(s)
}

// cutBlank cuts s at the first run of blanks.
func cutBlank(s string) (before, after string, ok bool) {
	i := strings.IndexAny(s, blanks)
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.TrimLeft(s[i:], blanks), true
}

func (l *signerLine) parsePrincipals(s string) (rest string, err error) {
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		if l.principals, rest, ok = strings.Cut(quoted, `"`); !ok {
			return "", errors.New("quotation mark is not closed")
		}
		if rest == "" || !strings.ContainsAny(rest[:1], blanks) {
			return "", errors.New("no space after the quoted principals")
		}
		rest = strings.TrimLeft(rest, blanks)
	} else {
		var ok bool
		if l.principals, rest, ok = cutBlank(s); !ok {
			return "", errors.New("no key after the principals")
		}
		if strings.Contains(l.principals, `"`) {
			return "", errors.New("quotation mark within the principals")
		}
	}
	if slices.ContainsFunc(strings.Split(l.principals, ","), func(p string) bool { return strings.Trim(p, "!"+blanks) == "" }) {
		return "", errors.New("empty principal")
	}
	return rest, nil
}

// parseOptions reads the options before the key. Names are told apart without
// regard to case, and a value is always quoted, as in ssh-keygen.
func (l *signerLine) parseOptions(s string) (rest string, err error) {
	seen := make(map[string]bool)
	for {
		end := strings.IndexAny(s, "=,"+blanks)
		if end < 0 {
			return "", errors.New("no key after the options")
		}
		name := strings.ToLower(s[:end])
		if seen[name] {
			return "", fmt.Errorf("option %s twice", name)
		}
		seen[name] = true
		switch name {
		case "namespaces", "valid-after", "valid-before":
		case "cert-authority":
			return "", errors.New("cert-authority is not supported: list the keys themselves")
		default:
			return "", fmt.Errorf("%.40q is neither an option nor a key type", s[:end])
		}
		if !strings.HasPrefix(s[end:], `="`) {
			return "", fmt.Errorf("option %s: no quoted value", name)
		}
		var value string
		if value, s, err = dequote(s[end+2:]); err != nil {
			return "", fmt.Errorf("option %s: %w", name, err)
		}
		switch name {
		case "namespaces":
			if l.namespaces = value; value == "" {
				return "", errors.New("option namespaces: empty")
			}
		case "valid-after":
			l.after, err = parseTime(value)
		case "valid-before":
			l.before, err = parseTime(value)
		}
		if err != nil {
			return "", fmt.Errorf("option %s: %w", name, err)
		}
		switch {
		case s == "":
			return "", errors.New("no key after the options")
		case s[0] == ',':
			s = s[1:]
		case strings.ContainsAny(s[:1], blanks):
			if !l.after.IsZero() && !l.before.IsZero() && !l.before.After(l.after) {
				return "", errors.New("valid-before is not after valid-after")
			}
			return strings.TrimLeft(s, blanks), nil
		default:
			return "", fmt.Errorf("no comma or space after option %s", name)
		}
	}
}

// dequote reads up to the closing quotation mark; \" stands for one within.
func dequote(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("quotation mark is not closed")
}

func parseTime(s string) (time.Time, error) {
	digits, zone := s, ""
	if n := len(s); n > 0 && (s[n-1] == 'Z' || s[n-1] == 'z') {
		digits, zone = s[:n-1], "Z"
	}
	layout, ok := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if !ok || strings.Trim(digits, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("time %.40q is not YYYYMMDD[HHMM[SS]][Z]", s)
	}
	t, err := time.ParseInLocation(layout, digits, time.UTC)
	if err != nil {
		return time.Time{}, fmt.Errorf("no such time: %s%s", digits, zone)
	}
	if t.Unix() <= 0 {
		// ssh-keygen takes 1970 for "no limit".
		return time.Time{}, fmt.Errorf("time %s%s is not after 1970", digits, zone)
	}
	return t, nil
}

// isKeyType reports whether s names a type of key, supported or not.
func isKeyType(s string) bool {
	for _, prefix := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "webauthn-sk-"} {
		if strings.HasPrefix(s, prefix) && !strings.ContainsAny(s, `="`) {
			return true
		}
	}
	return false
}

func (l *signerLine) parseKey(s string) error {
	keyType, rest, ok := cutBlank(s)
	if !ok || !isKeyType(keyType) {
		return errors.New("no key: want a type and its base64")
	}
	text, _, _ := cutBlank(rest)
	wire, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return fmt.Errorf("key of type %.60s: %w", keyType, err)
	}
	if key.Type() != keyType {
		return fmt.Errorf("key says it is %s and is %.60s", keyType, key.Type())
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if !bytes.Equal(key.Marshal(), wire) {
		return errors.New("key is not in its one encoding")
	}
	l.key, l.wire = key, wire
	return nil
}

// find looks a key up for a namespace at a time.
func (a *AllowedSigners) find(key ssh.PublicKey, namespace string, when time.Time) (Signer, error) {
	print := ssh.FingerprintSHA256(key)
	if a == nil {
		return Signer{}, fmt.Errorf("key %s: there is no list of allowed signers", print)
	}
	wire := key.Marshal()
	var reason error // of the first line with the key
	listed := func(l signerLine) bool { return bytes.Equal(l.wire, wire) }
	first := slices.IndexFunc(a.lines, func(l signerLine) bool {
		if !listed(l) {
			return false
		}
		err := l.live(when)
		if err != nil && reason == nil {
			reason = fmt.Errorf("key %s (%s:%d): %w", print, a.name, l.line, err)
		}
		return err == nil
	})
	switch {
	case first >= 0:
	case reason == nil:
		return Signer{}, fmt.Errorf("key %s is not in %s", print, a.name)
	default:
		return Signer{}, reason
	}
	reason = fmt.Errorf("key %s (%s:%d): its principals exclude each other", print, a.name, a.lines[first].line)
	for principal := range strings.SplitSeq(a.lines[first].principals, ",") {
		for _, l := range a.lines {
			if !listed(l) || l.live(when) != nil || !matchList(principal, l.principals) {
				continue
			}
			if l.namespaces == "" || matchList(namespace, l.namespaces) {
				return Signer{Principal: principal, Line: l.line, Key: print}, nil
			}
			reason = fmt.Errorf("key %s (%s:%d): not for the namespace %q but for %q", print, a.name, l.line, namespace, l.namespaces)
		}
	}
	return Signer{}, reason
}

// live says whether the line counts at a time. Both ends are within.
func (l signerLine) live(when time.Time) error {
	switch {
	case !l.after.IsZero() && when.Before(l.after):
		return fmt.Errorf("valid only after %s; the commit is of %s", l.after.Format(time.RFC3339), when.Format(time.RFC3339))
	case !l.before.IsZero() && when.After(l.before):
		return fmt.Errorf("valid only before %s; the commit is of %s", l.before.Format(time.RFC3339), when.Format(time.RFC3339))
	}
	return nil
}
