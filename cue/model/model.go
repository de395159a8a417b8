package model

import (
	"encoding/json"
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
	Routes    []Route     `json:"routes,omitempty"`
	Exit      *Exit       `json:"exit,omitempty"`
	Postures  []Posture   `json:"postures,omitempty"`
	Identity  []Identity  `json:"identity,omitempty"`
	Teams     []Team      `json:"teams,omitempty"`
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
	Session      time.Duration `json:"session,omitempty"` // that a login lasts; zero: the default of whoever admits

	// LiteralAddresses lets rules and tests name addresses inside the network's own
	// prefix that no pinned node has. They mean whichever node holds the address;
	// agents enforce no such rule. It is for policies that come from elsewhere.
	LiteralAddresses bool `json:"literalAddresses,omitempty"`

	Place Place `json:"place,omitzero"`
}

// A Coordinator is where agents fetch documents.
type Coordinator struct {
	Name  string             `json:"name"`
	Addr  string             `json:"addr"` // host:port
	Pin   key.IdentityPublic `json:"pin"`  // of its TLS certificate
	Place Place              `json:"place,omitzero"`
}

// A Ref is a selector and the place where it is written. It selects what the
// selector selects, less what any of Except does: {any: [a, b], except: [c]} is
// two Refs with the same Except.
type Ref struct {
	Selector acl.Selector `json:"selector"`
	Except   []Exception  `json:"except,omitempty"` // sorted by selector
	Place    Place        `json:"place,omitzero"`
}

// An Exception is what a Ref does not select.
type Exception struct {
	Selector acl.Selector `json:"selector"`
	Place    Place        `json:"place,omitzero"`
}

// A NameRef is a name as written, without a prefix, and its place.
type NameRef struct {
	Name  string `json:"name"`
	Place Place  `json:"place,omitzero"`
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
	Selector acl.Selector `json:"selector"`       // a user, a group, a tag or a claim
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

// A Route is what nodes may forward to, if they offer it: the prefix, or any part
// of it.
type Route struct {
	Prefix netip.Prefix `json:"prefix"` // masked
	Via    []Ref        `json:"via"`    // users, groups, tags, nodes; without Except
	Place  Place        `json:"place,omitzero"`
}

// An Exit says which nodes may forward to the internet, if they offer it.
type Exit struct {
	Via   []Ref `json:"via"`
	Place Place `json:"place,omitzero"`
}

// A Posture is a named list of conditions on what a node reports of itself.
type Posture struct {
	Name       string      `json:"name"`
	Conditions acl.Posture `json:"conditions"` // sorted by attribute, then comparison
	Place      Place       `json:"place,omitzero"`
}

// An Identity is a provider with which people log in.
type Identity struct {
	Name     string   `json:"name"`
	Issuer   string   `json:"issuer"` // URL
	ClientID string   `json:"clientID"`
	Members  []string `json:"members"` // patterns of e-mail addresses
	Place    Place    `json:"place,omitzero"`
}

// A Team writes what is in teams/NAME/, and nothing but rules to its Scope, tests,
// and groups, hosts and services under "NAME/".
type Team struct {
	Name  string `json:"name"`  // also of its directory
	Scope []Ref  `json:"scope"` // destinations
	Place Place  `json:"place,omitzero"`
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
	Owner string      `json:"owner,omitempty"` // a user or a group ("group:it") that answers for it
	Team  string      `json:"team,omitempty"`  // whose directory it stands in; empty for the network's own
	Place Place       `json:"place,omitzero"`

	Hours        acl.Hours                  `json:"hours,omitempty"`        // none means always
	Posture      []NameRef                  `json:"posture,omitempty"`      // the source meets any of these; none means whatever it reports
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"` // compact JSON, keys sorted

	// Origin is where the things are written that a computed rule was made of; its
	// Place is in the module. Empty for a written rule.
	Origin []Place `json:"origin,omitempty"`
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
// (allow), or none reaches any on any (deny). Unless At is written, rules with
// hours are judged for every hour of the week: allow holds at all of them, deny at
// none.
type Assertion struct {
	From       []Ref       `json:"from"`
	To         []Ref       `json:"to"`
	On         []PortRef   `json:"on,omitempty"`    // as written; required for allow
	Ports      []acl.Ports `json:"ports,omitempty"` // On with services expanded; empty means every port
	At         time.Time   `json:"at,omitzero"`     // UTC; zero means the commit's time
	AllowEmpty bool        `json:"allowEmpty,omitempty"`
	Place      Place       `json:"place,omitzero"`

	// Posture is what every source reports, by attribute. Nil: sources report
	// nothing (allow), or whatever they like (deny, only).
	Posture map[string]string `json:"posture,omitempty"`
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

	// Posture is what every source reports, by attribute. Nil: sources report
	// nothing (allow), or whatever they like (deny, only).
	Posture map[string]string `json:"posture,omitempty"`
}

// An Enrolment is a key with which servers join.
type Enrolment struct {
	Name  string          `json:"name"`
	Key   key.EnrolPublic `json:"key"`
	Tags  []Ref           `json:"tags"`  // a node that joins with the key bears all of them
	Names []string        `json:"names"` // patterns for the node's name; '*' is any run of characters
	Place Place           `json:"place,omitzero"`

	Expires time.Time `json:"expires,omitzero"` // UTC; from then on it admits no new node; zero: never
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
