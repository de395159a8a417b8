package model

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

func (d *decoder) identity(name string, v *value) Identity {
	d.name("identity", name, v)
	what := subject("identity", name)
	i := Identity{Name: name, Issuer: v.field("issuer").str, ClientID: v.field("clientID").str, Place: v.place}
	d.add(v.field("issuer").place, what, checkIssuer(i.Issuer))
	d.add(v.field("clientID").place, what, checkClientID(i.ClientID))
	members := v.field("members")
	d.notEmpty(members, what, `"members"`)
	seen := map[string]Place{}
	for _, m := range members.items {
		if before, ok := seen[m.str]; ok {
			d.twice(m.place, before, what, m.str)
			continue
		}
		seen[m.str] = m.place
		d.add(m.place, what, checkEmailPattern(m.str))
		i.Members = append(i.Members, m.str)
	}
	slices.Sort(i.Members)
	return i
}

// maxIssuer is the longest issuer, which stands in every token that it signs.
const maxIssuer = 500

// checkIssuer checks an issuer as OpenID Connect Discovery 1.0 (section 3) has it:
// an https URL without query or fragment. It is compared byte by byte.
func checkIssuer(s string) error {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxIssuer:
		return fmt.Errorf("issuer of %d bytes: at most %d", len(s), maxIssuer)
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf(`issuer %s: want an https URL, as in "https://login.acme.example"`, quoteName(s))
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return fmt.Errorf("issuer %s: an issuer has no user, query or fragment", quoteName(s))
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"\<>`, r) {
			return fmt.Errorf("issuer %s: %U is not allowed", quoteName(s), r)
		}
	}
	if strings.ToLower(u.Host) != u.Host {
		return fmt.Errorf("issuer %s: write the host in lower case", quoteName(s))
	}
	return nil
}

// checkClientID checks a client identifier (RFC 6749 appendix A.1) that is not empty.
func checkClientID(s string) error {
	if s == "" || len(s) > acl.MaxName {
		return fmt.Errorf("clientID of %d bytes: want 1 to %d", len(s), acl.MaxName)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("clientID %s: %U is not allowed", quoteName(s), r)
		}
	}
	return nil
}

// checkEmailPattern checks whom a provider may log in. In the domain a star stands
// only for whole labels in front of others: "*@*acme.example" would admit who
// registers evil-acme.example.
func checkEmailPattern(s string) error {
	local, domain, ok := strings.Cut(s, "@")
	if !ok {
		return fmt.Errorf(`%s is no pattern of e-mail addresses: want "*@acme.example"`, quoteName(s))
	}
	if strings.Contains(local, "**") {
		return fmt.Errorf("pattern %s: one '*' is any run of characters already", quoteName(s))
	}
	if err := checkASCII("pattern", s); err != nil {
		return err
	}
	plain := strings.TrimPrefix(domain, "*.")
	if strings.Contains(plain, "*") || !strings.Contains(plain, ".") && domain != plain {
		return fmt.Errorf(`pattern %s: the domain is written whole, or as "*.acme.example" for those below it`, quoteName(s))
	}
	// A star can be empty or a letter, wherever it stands in front of the '@'.
	if err := acl.CheckUser(strings.ReplaceAll(local, "*", "x") + "@" + plain); err != nil {
		return fmt.Errorf("pattern %s: want an e-mail address in lower case, in which '*' is any run of characters", quoteName(s))
	}
	return nil
}

// A session lasts at least as long as people need to notice that one ends, and no
// longer than somebody who left may be forgotten.
const (
	minSession = 5 * time.Minute
	maxSession = 366 * 24 * time.Hour
)

func (d *decoder) session(v *value) time.Duration {
	if v == nil {
		return 0
	}
	t, err := time.ParseDuration(v.str)
	switch {
	case err != nil || t%time.Second != 0:
		d.problems.Add(v.place, `network: session: %s is not a time in hours, minutes and seconds; write it as "720h"`, quoteName(v.str))
	case t < minSession || t > maxSession:
		d.problems.Add(v.place, "network: session: %s: want 5m to %.0fh", quoteName(v.str), maxSession.Hours())
	}
	return t
}

func (c *check) checkIdentity() {
	clients := map[[2]string]Place{}
	for _, i := range c.p.Identity {
		client := [2]string{i.Issuer, i.ClientID}
		if before, ok := clients[client]; ok {
			c.problems = append(c.problems, Problem{Place: i.Place, Also: []Place{before}, Message: subject("identity", i.Name) + " has the issuer and clientID of another"})
		}
		clients[client] = i.Place
		c.warnings.Add(i.Place, "%s: nobody can log in with this version: it admits pinned and enrolled nodes", subject("identity", i.Name))
	}
}
