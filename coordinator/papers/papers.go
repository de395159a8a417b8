// Package papers holds the signed documents about single nodes: what admits a
// node, what it says of itself, how it asks to join, and how it acknowledges a
// revision.
//
// A node meets its peers and relays with its papers: its admission, its record,
// and its principal leaves. Nothing else makes it anybody. All documents are
// signed notes (package trust) with texts as package body describes.
//
// # Admission
//
// sync's admission keys sign it; admissions form sync's hash-chained log, which
// is the inventory. An identity key has one name, one pair of addresses and one
// principal for life.
//
//	writ/admission/v1
//	network net:…
//	log 17                   position in the admission log, from 1
//	prev sha256:…|none       the admission before it in the log
//	identity idpub:…
//	name ledger-1            a DNS label
//	ipv4 100.64.0.3
//	ipv6 fd…                 derived: see Address6
//	user EMAIL ISSUER SUBJECT    one line, or
//	tag NAME                     one or more lines, sorted
//	basis enrolment NAME     or "pin NAME": what in the policy it rests on
//	epoch 1                  the revision it was first decided under: its
//	seq 1795000000             holder adopts nothing older
//	issued 2026-11-22T10:00:00Z
//	expires …|none           a session's end
//	serial 1                 of admissions of this identity key; the highest counts
//
// # Record
//
// The node's identity key signs it; the signer's name in the note is the node's
// id. Only the highest serial seen counts.
//
//	writ/record/v1
//	network net:…
//	node nid:…
//	serial 1795000000
//	wg wgpub:…               WireGuard key
//	relay NAME               0 to 4 lines: home relays, best first
//	posture ATTR VALUE       0 to 16 lines, sorted: what the node reports of itself
//	issued 2026-11-22T10:00:00Z
//	expires 2026-11-23T10:00:00Z   at most 48 h after issued
//
// A record that has expired is not taken up. One that is in force stays until a
// newer one replaces it: otherwise the loss of the coordinator would part nodes
// that know each other.
//
// # Join request and proof
//
// A node asks to join with a request signed by its identity key; the proof in it
// is sealed (package key) to sync with the info "writ/proof/v1\n" + network id,
// so that the coordinator that carries it cannot use it.
//
//	writ/join/v1                     writ/proof/v1
//	network net:…                    network net:…
//	identity idpub:…                 identity idpub:…
//	name ledger-1                    name ledger-1
//	issued …                         tag NAME        0 or more lines, sorted
//	proof BASE64URL                  kind enrolment  or "pin"
//	                                 entry NAME      or "none"
//	                                 signature BASE64URL  or "none"
//
// The signature is the enrolment key's, over
//
//	writ-enrol/v1
//	network net:…
//	identity idpub:…
//	name ledger-1
//	tag NAME
//
// A pinned node proves nothing more than its identity key: the pin names it.
//
// # Acknowledgement
//
//	writ/ack/v1
//	network net:…
//	node nid:…
//	epoch 1
//	seq 1795000000
//	manifest sha256:…
//	digest sha256:…          of what the node enforces: see netmap.Digest
//	issued …
//
// # What a reader refuses
//
// Another network; a signature of another key; names that are not DNS labels;
// an IPv6 address that is not the identity key's; a user with tags, or neither;
// tags unsorted or twice; a record that lives longer than 48 h; anything not in
// canonical form. testdata has a note of each type and what is inside the sealed
// proof; testdata/defects has one file for each thing refused, as package trust
// has.
package papers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	admissionType = "writ/admission/v1"

	// MaxAdmission is the largest admission with its signatures, in bytes.
	MaxAdmission = 16 << 10

	maxTags = 64
)

// Address6 is the IPv6 address of an identity key: the network's /48 (0xfd and
// 40 bits of the network id, a unique local prefix of RFC 4193), then the first
// 80 bits of SHA-256("writ-address/v1\n" ‖ network id ‖ identity key).
func Address6(network key.NetworkID, id key.IdentityPublic) netip.Addr {
	h := sha256.New()
	h.Write([]byte("writ-address/v1\n"))
	h.Write(network[:])
	h.Write(id.Ed25519())
	p := Prefix6(network).Addr().As16()
	copy(p[6:], h.Sum(nil)[:10])
	return netip.AddrFrom16(p)
}

// Prefix6 is the network's IPv6 prefix.
func Prefix6(network key.NetworkID) netip.Prefix {
	var p [16]byte
	p[0] = 0xfd
	copy(p[1:6], network[:5])
	return netip.PrefixFrom(netip.AddrFrom16(p), 48)
}

// A Basis is what in the policy an admission rests on.
type Basis struct {
	Kind string // "pin" or "enrolment"
	Name string // of the node or the entry
}

func (b Basis) String() string { return b.Kind + " " + b.Name }

func parseBasis(s string) (Basis, error) {
	kind, name, _ := strings.Cut(s, " ")
	switch kind {
	case "pin":
		return Basis{kind, name}, acl.CheckLabel("node", name)
	case "enrolment":
		return Basis{kind, name}, acl.CheckName("enrolment", name)
	}
	return Basis{}, fmt.Errorf("unknown basis %q", kind)
}

// An Admission makes an identity key a node of the network.
type Admission struct {
	Network  key.NetworkID
	Log      int64
	Prev     key.Hash
	Identity key.IdentityPublic
	Name     string
	IPv4     netip.Addr
	IPv6     netip.Addr
	User     *acl.User
	Tags     []string
	Basis    Basis
	Decided  trust.Position
	Issued   time.Time
	Expires  time.Time // zero: does not
	Serial   int64

	hash key.Hash
}

// Hash is the hash of the admission's text.
func (a *Admission) Hash() key.Hash { return a.hash }

// Principals are the selectors of the node's principals: its user, or its tags.
func (a *Admission) Principals() []acl.Selector {
	if a.User != nil {
		return []acl.Selector{{Kind: acl.KindUser, Name: a.User.Email}}
	}
	var out []acl.Selector
	for _, t := range a.Tags {
		out = append(out, acl.Selector{Kind: acl.KindTag, Name: t})
	}
	return out
}

// Addresses are the node's addresses.
func (a *Admission) Addresses() []netip.Addr { return []netip.Addr{a.IPv4, a.IPv6} }

// Text is the admission without signatures: what is signed.
func (a *Admission) Text() string {
	w := body.NewWriter(admissionType)
	w.Line("network", a.Network)
	w.Line("log", a.Log)
	w.Line("prev", hashOrNone(a.Prev))
	w.Line("identity", a.Identity)
	w.Line("name", a.Name)
	w.Line("ipv4", a.IPv4)
	w.Line("ipv6", a.IPv6)
	if a.User != nil {
		w.Line("user", strings.Join([]string{a.User.Email, a.User.Issuer, a.User.Subject}, " "))
	}
	for _, t := range a.Tags {
		w.Line("tag", t)
	}
	w.Line("basis", a.Basis)
	w.Line("epoch", a.Decided.Epoch)
	w.Line("seq", a.Decided.Seq)
	w.Line("issued", a.Issued)
	w.Line("expires", a.Expires)
	w.Line("serial", a.Serial)
	return w.String()
}

// NewAdmission checks and completes an admission, ready to be signed.
func NewAdmission(a Admission) (*Admission, error) { return parseAdmission(a.Text()) }

func parseAdmission(text string) (*Admission, error) {
	a := &Admission{hash: key.HashOf([]byte(text))}
	r := body.NewReader(admissionType, text)
	a.Network = body.Value(r, "network", key.ParseNetworkID)
	a.Log = r.Int("log")
	a.Prev = body.Optional(r, "prev", key.ParseHash)
	a.Identity = body.Value(r, "identity", key.ParseIdentityPublic)
	a.Name = body.Value(r, "name", checked(acl.CheckLabel, "node"))
	a.IPv4 = body.Value(r, "ipv4", netip.ParseAddr)
	a.IPv6 = body.Value(r, "ipv6", netip.ParseAddr)
	if users := body.Values(r, "user", 1, parseUser); len(users) == 1 {
		a.User = users[0]
	}
	a.Tags = body.Values(r, "tag", maxTags, checked(acl.CheckName, "tag"))
	a.Basis = body.Value(r, "basis", parseBasis)
	a.Decided.Epoch = r.Int("epoch")
	a.Decided.Seq = r.Int("seq")
	a.Issued = r.Time("issued", false)
	a.Expires = r.Time("expires", true)
	a.Serial = r.Int("serial")
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("admission: %w", err)
	case a.Log < 1, a.Serial < 1, a.Decided.Epoch < 1:
		return nil, errors.New("admission: log, serial and epoch begin at 1")
	case (a.Log == 1) != a.Prev.IsZero():
		return nil, errors.New("admission: prev is none for the first of the log, and only there")
	case (a.User == nil) == (len(a.Tags) == 0):
		return nil, errors.New("admission: want a user, or tags")
	case !distinctSorted(a.Tags):
		return nil, errors.New("admission: tags are not sorted, or one stands twice")
	case !a.IPv4.Is4():
		return nil, fmt.Errorf("admission: ipv4 %s is not IPv4", a.IPv4)
	case a.IPv6 != Address6(a.Network, a.Identity):
		return nil, fmt.Errorf("admission: ipv6 %s is not the identity key's", a.IPv6)
	case a.Text() != text:
		return nil, errors.New("admission: not in canonical form")
	}
	return a, nil
}

// distinctSorted reports whether the tags ascend.
func distinctSorted(tags []string) bool {
	for i := 1; i < len(tags); i++ {
		if tags[i-1] >= tags[i] {
			return false
		}
	}
	return true
}

// parseUser reads "EMAIL ISSUER SUBJECT".
func parseUser(s string) (*acl.User, error) {
	f := strings.Split(s, " ")
	if len(f) != 3 || f[1] == "" || f[2] == "" {
		return nil, errors.New("want EMAIL ISSUER SUBJECT")
	}
	return &acl.User{Email: f[0], Issuer: f[1], Subject: f[2]}, acl.CheckUser(f[0])
}

// OpenAdmission verifies an admission under the newest root document and parses
// it. Whether the node is out, expired, or superseded is the holder's to check.
func OpenAdmission(msg []byte, root *trust.Root) (*Admission, error) {
	text, err := trust.Open(msg, MaxAdmission, root.AdmissionKeys, root.AdmissionThreshold)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	a, err := parseAdmission(text)
	switch {
	case err != nil:
		return nil, err
	case a.Network != root.Network:
		return nil, fmt.Errorf("admission: of network %s, want %s", a.Network, root.Network)
	}
	return a, nil
}

func checked(check func(what, s string) error, what string) func(string) (string, error) {
	return func(s string) (string, error) { return s, check(what, s) }
}

func hashOrNone(h key.Hash) any {
	if h.IsZero() {
		return body.None
	}
	return h
}
