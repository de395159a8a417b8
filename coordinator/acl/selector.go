package acl

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A Kind is what a selector selects by.
type Kind uint8

// The kinds of selectors.
const (
	KindNone   Kind = iota // selects nothing
	KindUser               // Name is an e-mail address
	KindGroup              // Name is a group
	KindTag                // Name is a tag
	KindNode               // Name is a node's name
	KindMember             // autogroup:member
	KindTagged             // autogroup:tagged
	KindSelf               // autogroup:self
	KindAny                // *

	KindPrefix   // Name is a prefix in canonical form; a single address has no length
	KindInternet // autogroup:internet
	KindClaim    // Name is NAME=VALUE: who has a claim of an identity provider's token
	KindHost     // Name is a host of the policy language, which the compiler replaces
)

// A Selector selects nodes by who they are. Its text is canonical: two
// selectors are equal exactly when their texts are.
type Selector struct {
	Kind Kind
	Name string // empty for autogroups and *
}

// ParseSelector reads a selector's text.
func ParseSelector(s string) (Selector, error) {
	if s == "*" {
		return Selector{Kind: KindAny}, nil
	}
	if rest, ok := strings.CutPrefix(s, "claim:"); ok {
		return Selector{KindClaim, rest}, CheckClaim(rest)
	}
	if strings.Contains(s, "@") {
		return Selector{KindUser, s}, CheckUser(s)
	}
	if looksLikeAddress(s) {
		return parsePrefix(s)
	}
	prefix, name, ok := strings.Cut(s, ":")
	if !ok {
		return Selector{}, fmt.Errorf("%q is not a selector: want a user's e-mail address, group:, tag:, node:, host:, autogroup:, an address, a prefix or *", s)
	}
	switch prefix {
	case "group":
		return Selector{KindGroup, name}, CheckName("group", name)
	case "tag":
		return Selector{KindTag, name}, CheckName("tag", name)
	case "node":
		return Selector{KindNode, name}, CheckLabel("node", name)
	case "host":
		return Selector{KindHost, name}, CheckName("host", name)
	case "autogroup":
		switch name {
		case "member":
			return Selector{Kind: KindMember}, nil
		case "tagged":
			return Selector{Kind: KindTagged}, nil
		case "self":
			return Selector{Kind: KindSelf}, nil
		case "internet":
			return Selector{Kind: KindInternet}, nil
		}
		return Selector{}, fmt.Errorf("unknown %q: the autogroups are member, tagged, self and internet", s)
	}
	return Selector{}, fmt.Errorf("%q is not a selector: unknown prefix %q", s, prefix+":")
}

// looksLikeAddress tells 10.0.0.0/8 and fd00::1 from a mistyped prefix.
func looksLikeAddress(s string) bool {
	return strings.Trim(s, "0123456789abcdefABCDEF:./%") == "" && strings.ContainsAny(s, ".:/")
}

// parsePrefix reads an address or a prefix in canonical form.
func parsePrefix(s string) (Selector, error) {
	text, _, ranged := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return Selector{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	case addr.Zone() != "", addr.Is4In6():
		return Selector{}, fmt.Errorf("%q: write an IPv4 address, or an IPv6 address without a zone", s)
	case !ranged:
		if addr.String() != s {
			return Selector{}, fmt.Errorf("%q: write %s", s, addr)
		}
		return Selector{KindPrefix, s}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return Selector{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	}
	if want := PrefixSelector(p); want.Name != s {
		return Selector{}, fmt.Errorf("%q: write %s", s, want)
	}
	return Selector{KindPrefix, s}, nil
}

// PrefixSelector selects the addresses in a prefix.
func PrefixSelector(p netip.Prefix) Selector {
	p = p.Masked()
	if p.IsSingleIP() {
		return Selector{KindPrefix, p.Addr().String()}
	}
	return Selector{KindPrefix, p.String()}
}

// Prefix is what a selector of KindPrefix selects; of another kind, nothing.
func (s Selector) Prefix() netip.Prefix {
	if s.Kind != KindPrefix {
		return netip.Prefix{}
	}
	if p, err := netip.ParsePrefix(s.Name); err == nil {
		return p
	}
	a, err := netip.ParseAddr(s.Name)
	if err != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

func (s Selector) String() string {
	switch s.Kind {
	case KindUser:
		return s.Name
	case KindGroup:
		return "group:" + s.Name
	case KindTag:
		return "tag:" + s.Name
	case KindNode:
		return "node:" + s.Name
	case KindMember:
		return "autogroup:member"
	case KindTagged:
		return "autogroup:tagged"
	case KindSelf:
		return "autogroup:self"
	case KindAny:
		return "*"
	case KindPrefix:
		return s.Name
	case KindInternet:
		return "autogroup:internet"
	case KindClaim:
		return "claim:" + s.Name
	case KindHost:
		return "host:" + s.Name
	default:
		return "nobody"
	}
}

// MarshalText writes the selector's text.
func (s Selector) MarshalText() ([]byte, error) {
	if s.Kind == KindNone {
		return nil, errors.New("the empty selector has no text")
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads the selector's text.
func (s *Selector) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSelector(string(b))
	return err
}

// MaxName is the longest name of a user, group, tag or node, in bytes.
const MaxName = 253

// CheckName checks the name of a group, tag, service, host, rule or enrolment
// entry: one or more parts of lower-case letters, digits, '-', '_' and '.',
// each beginning with a letter or digit, joined by '/'.
func CheckName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s: empty name", what)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%s name of %d bytes: at most %d", what, len(name), MaxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || !alnum(part[0]) {
			return fmt.Errorf("%s name %q: each part begins with a lower-case letter or a digit", what, name)
		}
	}
	for i, r := range name {
		if r >= 0x80 || !alnum(name[i]) && !strings.ContainsRune("-_./", r) {
			return fmt.Errorf("%s name %q: %s is not allowed; use lower-case letters, digits, '-', '_', '.' and '/'", what, name, describe(r))
		}
	}
	return nil
}

// CheckLabel checks a DNS label (RFC 1123 section 2.1) in lower case, which is
// what the name of a node is.
func CheckLabel(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s: empty name", what)
	}
	if len(name) > 63 {
		return fmt.Errorf("%s name of %d bytes: a DNS label has at most 63", what, len(name))
	}
	for i, r := range name {
		if r >= 0x80 || !alnum(name[i]) && r != '-' {
			return fmt.Errorf("%s name %q: %s is not allowed; use lower-case letters, digits and '-'", what, name, describe(r))
		}
	}
	if name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("%s name %q: a DNS label does not begin or end with '-'", what, name)
	}
	return nil
}

// CheckClaim checks a claim of an identity provider's token as NAME=VALUE: printable
// ASCII, no white space but single spaces inside the value, and no '=' in NAME.
func CheckClaim(s string) error {
	if len(s) > MaxName {
		return fmt.Errorf("claim of %d bytes: at most %d", len(s), MaxName)
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" || value == "" {
		return fmt.Errorf("claim %q: want NAME=VALUE", s)
	}
	for _, r := range s {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return fmt.Errorf("claim %q: %s is not allowed", s, describe(r))
		}
	}
	if strings.Contains(name, " ") || strings.TrimSpace(value) != value || strings.Contains(value, "  ") {
		return fmt.Errorf("claim %q: a space too many", s)
	}
	return nil
}

// CheckUser checks a user's e-mail address: one '@', ASCII, lower case, no
// white space, quotes or control characters. It is a name, not a mailbox. Nor is it
// a pattern: in a mailbox a '*' is a letter, but whoever writes "*@acme.example"
// means everybody there, so a name has none.
func CheckUser(s string) error {
	if len(s) > MaxName {
		return fmt.Errorf("user name of %d bytes: at most %d", len(s), MaxName)
	}
	local, domain, _ := strings.Cut(s, "@")
	if local == "" || domain == "" {
		return fmt.Errorf("user %q: want name@domain", s)
	}
	for i, r := range s {
		if 'A' <= r && r <= 'Z' {
			return fmt.Errorf("user %q: write the address in lower case", s)
		}
		if r >= 0x80 || !alnum(s[i]) && !strings.ContainsRune("@.-_+'=~#&!$%^/?{|}`", r) {
			return fmt.Errorf("user %q: %s is not allowed", s, describe(r))
		}
	}
	for label := range strings.SplitSeq(domain, ".") {
		if err := CheckLabel("domain", label); err != nil {
			return fmt.Errorf("user %q: %w", s, err)
		}
	}
	return nil
}

func alnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// describe names a character so that look-alikes and invisible ones show.
func describe(r rune) string {
	if r < 0x80 && r > ' ' && r != 0x7f {
		return fmt.Sprintf("'%c'", r)
	}
	return fmt.Sprintf("%U", r)
}
