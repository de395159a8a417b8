package model

import (
	"net/netip"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// A Policy is a policy repository as loaded: everything that was written, with
// the place where it was written, and nothing that has to be looked up
// elsewhere. Every slice is sorted by name and holds each name once, so that
// the order of files and of fields does not show.
//
// Its JSON is what guards see as input.network and what the evaluating child
// process returns; it decodes to an equal Policy.
type Policy struct {
	Network   Network     `json:"network"`
	Admins    []Ref       `json:"admins,omitempty"` // users and groups
	Groups    []Group     `json:"groups,omitempty"`
	Tags      []Tag       `json:"tags,omitempty"`
	Hosts     []Host      `json:"hosts,omitempty"`
	Services  []Service   `json:"services,omitempty"`
	Rules     []Rule      `json:"rules,omitempty"`
	Tests     []Test      `json:"tests,omitempty"`
	Enrolment []Enrolment `json:"enrolment,omitempty"`
	Nodes     []Node      `json:"nodes,omitempty"`
	Relays    []Relay     `json:"relays,omitempty"`
	Revoked   []Revoked   `json:"revoked,omitempty"`

	// Warnings are what a person should look at although it can be enforced.
	Warnings Problems `json:"warnings,omitempty"`
}

// A Network says what the network is called and where its parts are.
type Network struct {
	Name         string        `json:"name"`    // a DNS label
	Domain       string        `json:"domain"`  // nodes are called NAME.Domain; lower case, no final dot
	Prefix4      netip.Prefix  `json:"prefix4"` // the IPv4 addresses of its nodes; masked
	Coordinators []Coordinator `json:"coordinators,omitempty"`
	Place        Place         `json:"place,omitzero"`
}

// A Coordinator is where agents fetch documents.
type Coordinator struct {
	Name  string             `json:"name"`
	Addr  string             `json:"addr"` // host:port
	Pin   key.IdentityPublic `json:"pin"`  // of its TLS certificate
	Place Place              `json:"place,omitzero"`
}

// A Ref is a selector and the place where it is written.
type Ref struct {
	Selector acl.Selector `json:"selector"`
	Place    Place        `json:"place,omitzero"`
}

// A PortRef is a port as written ("tcp/443", "service:web") and its place.
type PortRef struct {
	Text  string `json:"text"`
	Place Place  `json:"place,omitzero"`
}

// A Group is a named set of users, tags and other groups.
type Group struct {
	Name    string   `json:"name"` // without the prefix "group:"
	Members []Member `json:"members,omitempty"`
	Place   Place    `json:"place,omitzero"`
}

// A Member is one entry of a group.
type Member struct {
	Selector acl.Selector `json:"selector"`       // a user, a group or a tag
	Until    time.Time    `json:"until,omitzero"` // UTC; zero means without end
	Place    Place        `json:"place,omitzero"`
}

// A Tag is what servers are called by. A tag exists by being written here.
type Tag struct {
	Name   string `json:"name"`             // without the prefix "tag:"
	Owners []Ref  `json:"owners,omitempty"` // users, groups and tags
	Place  Place  `json:"place,omitzero"`
}

// A Host is a named address outside the network.
type Host struct {
	Name   string       `json:"name"`   // without the prefix "host:"
	Prefix netip.Prefix `json:"prefix"` // a single address has all its bits
	Place  Place        `json:"place,omitzero"`
}

// A Service is a named list of ports.
type Service struct {
	Name  string    `json:"name"`  // without the prefix "service:"
	Ports []PortRef `json:"ports"` // may name other services
	Place Place     `json:"place,omitzero"`
}

// A Rule gives access, and is the only thing that does.
type Rule struct {
	Name  string      `json:"name"`
	From  []Ref       `json:"from"`
	To    []Ref       `json:"to"`
	Allow []PortRef   `json:"allow"`          // as written
	Ports []acl.Ports `json:"ports"`          // Allow with services expanded; sorted, each once
	Until time.Time   `json:"until,omitzero"` // UTC; zero means without end
	Why   string      `json:"why,omitempty"`
	Place Place       `json:"place,omitzero"`
}

// A Test is what must be true of the rules.
type Test struct {
	Name  string      `json:"name"`
	Allow []Assertion `json:"allow,omitempty"` // in the order written
	Deny  []Assertion `json:"deny,omitempty"`
	Only  []Only      `json:"only,omitempty"`
	Place Place       `json:"place,omitzero"`
}

// An Assertion says that each of From reaches each of To on all of Ports
// (allow), or none reaches any on any (deny).
type Assertion struct {
	From       []Ref       `json:"from"`
	To         []Ref       `json:"to"`
	On         []PortRef   `json:"on,omitempty"`    // as written; required for allow
	Ports      []acl.Ports `json:"ports,omitempty"` // On with services expanded; empty means every port
	At         time.Time   `json:"at,omitzero"`     // UTC; zero means the commit's time
	AllowEmpty bool        `json:"allowEmpty,omitempty"`
	Place      Place       `json:"place,omitzero"`
}

// An Only says that nobody outside From reaches any of To on any of Ports.
type Only struct {
	From       []Ref       `json:"from"`
	To         []Ref       `json:"to"`
	On         []PortRef   `json:"on,omitempty"`
	Ports      []acl.Ports `json:"ports,omitempty"` // On with services expanded; empty means every port
	At         time.Time   `json:"at,omitzero"`     // UTC; zero means the commit's time
	AllowEmpty bool        `json:"allowEmpty,omitempty"`
	Place      Place       `json:"place,omitzero"`
}

// An Enrolment is a key with which servers join.
type Enrolment struct {
	Name  string          `json:"name"`
	Key   key.EnrolPublic `json:"key"`
	Tags  []Ref           `json:"tags"`  // a node that joins with the key bears all of them
	Names []string        `json:"names"` // patterns for the node's name; '*' is any run of characters
	Place Place           `json:"place,omitzero"`
}

// A Node is a node pinned by its identity key. It belongs to a user or bears
// tags, never both and never neither.
type Node struct {
	Name     string             `json:"name"` // a DNS label
	Key      key.IdentityPublic `json:"key"`
	User     string             `json:"user,omitempty"`    // an e-mail address
	Tags     []Ref              `json:"tags,omitempty"`    // all of them
	Address4 netip.Addr         `json:"address4,omitzero"` // within Prefix4; zero means that one is leased
	// Endpoints are where peers may find the node, beside what it finds out.
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"`
	Place     Place            `json:"place,omitzero"`
}

// A Relay forwards sealed packets.
type Relay struct {
	Name  string             `json:"name"`
	Addr  string             `json:"addr"` // host:port
	Key   key.IdentityPublic `json:"key"`
	STUN  []string           `json:"stun,omitempty"` // host:port, where it answers STUN
	Place Place              `json:"place,omitzero"`
}

// A Revoked node is out, whatever else admits it.
type Revoked struct {
	Node  key.NodeID `json:"node"`
	Why   string     `json:"why,omitempty"`
	Place Place      `json:"place,omitzero"`
}

// TagNames are the names in refs without the prefix "tag:", in their order.
func TagNames(refs []Ref) []string {
	names := make([]string, 0, len(refs))
	for _, r := range refs {
		if r.Selector.Kind == acl.KindTag {
			names = append(names, r.Selector.Name)
		}
	}
	return names
}
