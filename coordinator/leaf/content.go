package leaf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
)

// The names of the leaves there is one of.
const (
	NameNetwork = "network"
	NameRelays  = "relays"
)

// PrincipalName is the name of the leaf about a user or a tag.
func PrincipalName(p acl.Selector) string { return "principal/" + p.String() }

// InboundName is the name of the leaf of what may reach the selected nodes.
func InboundName(to acl.Selector) string { return "inbound/" + to.String() }

// NodeName is the name of the leaf about a pinned node.
func NodeName(node string) string { return "node/" + node }

// RouteName is the name of the leaf about a route: "route/exit" for exit nodes.
func RouteName(r *acl.Route) string {
	if r.Exit {
		return "route/exit"
	}
	return "route/" + r.Prefix.String()
}

// IdentityName is the name of the leaf about an identity provider.
func IdentityName(provider string) string { return "identity/" + provider }

// EnrolmentName is the name of the leaf about an enrolment entry.
func EnrolmentName(entry string) string { return "enrolment/" + entry }

// Network is the content of the leaf "network".
type Network struct {
	Name         string         `json:"name"`
	Domain       string         `json:"domain"`            // of the names of nodes
	Prefix4      netip.Prefix   `json:"prefix4"`           // IPv4 addresses are leased from here
	Session      int64          `json:"session,omitempty"` // seconds that a login lasts; zero: nobody logs in
	Coordinators []Coordinator  `json:"coordinators,omitempty"`
	Admins       []acl.Selector `json:"admins,omitempty"`
}

// A Coordinator is where agents find one.
type Coordinator struct {
	Addr string             `json:"addr"` // host:port
	Pin  key.IdentityPublic `json:"pin"`  // of its TLS certificate
}

// Relays is the content of the leaf "relays".
type Relays struct {
	Relays    []Relay         `json:"relays"`              // sorted by name
	Endpoints []NodeEndpoints `json:"endpoints,omitempty"` // sorted by node
}

// NodeEndpoints are where a node may be found, whatever it finds out itself.
type NodeEndpoints struct {
	Node  key.NodeID       `json:"node"`
	Addrs []netip.AddrPort `json:"addrs"` // sorted
}

// A Relay is where agents find one.
type Relay struct {
	Name string             `json:"name"`
	Addr string             `json:"addr"`           // host:port
	Key  key.IdentityPublic `json:"key"`            // of its TLS certificate
	STUN []string           `json:"stun,omitempty"` // host:port, where it answers STUN; sorted
}

// Same reports whether both are one relay, reached in one way.
func (r Relay) Same(o Relay) bool {
	return r.Name == o.Name && r.Addr == o.Addr && r.Key.Equal(o.Key)
}

// Principal is the content of a principal leaf.
type Principal struct {
	Principal acl.Selector     `json:"principal"` // a user or a tag
	Groups    []acl.Membership `json:"groups"`    // sorted; a group once, with its latest end
}

// Node is the content of a node leaf: a node that the policy admits by its key.
type Node struct {
	Name     string             `json:"name"`
	Key      key.IdentityPublic `json:"key"`
	User     string             `json:"user,omitempty"` // or Tags
	Tags     []string           `json:"tags,omitempty"` // sorted
	Address4 netip.Addr         `json:"address4,omitzero"`
}

// Enrolment is the content of an enrolment leaf.
type Enrolment struct {
	Name  string          `json:"name"`
	Key   key.EnrolPublic `json:"key"`
	Tags  []string        `json:"tags"`  // exactly these, sorted
	Names []string        `json:"names"` // patterns of node names: '*' stands for any characters

	// Expires is when the key admits no new node; admitted ones stay. Zero: never.
	Expires time.Time `json:"expires,omitzero"`
}

// Identity is the content of an identity leaf: a provider with which people log in.
type Identity struct {
	Name     string   `json:"name"`
	Issuer   string   `json:"issuer"` // URL
	ClientID string   `json:"clientID"`
	Members  []string `json:"members"` // patterns of e-mail addresses, sorted: '*' stands for any characters
}

// Encode makes the leaf of this name and content. The content must be one of
// this package's, an acl.Inbound or an acl.Route.
func Encode(name string, content any) (Leaf, error) {
	if len(name) > MaxName {
		return Leaf{}, fmt.Errorf("leaf name of %d bytes: at most %d", len(name), MaxName)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(content); err != nil {
		return Leaf{}, fmt.Errorf("leaf %s: %w", name, err)
	}
	if b.Len() > MaxSize {
		return Leaf{}, fmt.Errorf("leaf %s: %d bytes, at most %d", name, b.Len(), MaxSize)
	}
	return Leaf{name, b.Bytes()}, nil
}

// Decode reads a leaf's content into one of this package's types. A field it
// does not know is an error: what it says cannot be obeyed.
func Decode(l Leaf, content any) error {
	if len(l.Data) > MaxSize {
		return fmt.Errorf("leaf %s: %d bytes, at most %d", l.Name, len(l.Data), MaxSize)
	}
	if err := strict(l.Data, content); err != nil {
		return fmt.Errorf("leaf %s: %w", l.Name, err)
	}
	return nil
}

// DecodeInbound reads an inbound leaf. A grant that this version cannot enforce,
// because it has a field, a selector or ports unknown here, gives no access: it
// is left out and counted.
func DecodeInbound(l Leaf) (in acl.Inbound, unenforced int, err error) {
	var raw struct {
		To     acl.Selector      `json:"to"`
		Grants []json.RawMessage `json:"grants"`
	}
	if err := Decode(l, &raw); err != nil {
		return in, 0, err
	}
	if want := InboundName(raw.To); l.Name != want {
		return in, 0, fmt.Errorf("leaf %s: is about %s", l.Name, raw.To)
	}
	in.To = raw.To
	in.Grants, unenforced = grants(raw.Grants)
	return in, unenforced, nil
}

// grants are those that can be enforced, and how many cannot.
func grants(raw []json.RawMessage) (out []acl.Grant, unenforced int) {
	for _, r := range raw {
		var g acl.Grant
		if err := strict(r, &g); err != nil || !complete(&g) {
			unenforced++
			continue
		}
		out = append(out, g)
	}
	return out, unenforced
}

// DecodeRoute reads a route leaf, and leaves grants out as DecodeInbound does. An
// inbound whose destination is not within the route is an error.
func DecodeRoute(l Leaf) (r acl.Route, unenforced int, err error) {
	var raw struct {
		Prefix  netip.Prefix   `json:"prefix"`
		Exit    bool           `json:"exit"`
		Via     []acl.Selector `json:"via"`
		Inbound []struct {
			To     acl.Selector      `json:"to"`
			Grants []json.RawMessage `json:"grants"`
		} `json:"inbound"`
	}
	if err := Decode(l, &raw); err != nil {
		return r, 0, err
	}
	r = acl.Route{Prefix: raw.Prefix, Exit: raw.Exit, Via: raw.Via}
	if r.Exit == r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || l.Name != RouteName(&r) {
		return r, 0, fmt.Errorf("leaf %s: is about %s, exit %t", l.Name, r.Prefix, r.Exit)
	}
	for _, in := range raw.Inbound {
		p := in.To.Prefix()
		within := r.Exit && in.To.Kind == acl.KindInternet ||
			!r.Exit && p.IsValid() && r.Prefix.Bits() <= p.Bits() && r.Prefix.Contains(p.Addr())
		if !within {
			return r, 0, fmt.Errorf("leaf %s: %s is not behind it", l.Name, in.To)
		}
		list, n := grants(in.Grants)
		unenforced += n
		r.Inbound = append(r.Inbound, acl.Inbound{To: in.To, Grants: list})
	}
	return r, unenforced, nil
}

// complete reports whether every selector and all ports of g say something. In
// JSON they may be null, which excepts nobody where somebody was meant; claims and
// hosts select nobody by themselves.
func complete(g *acl.Grant) bool {
	for _, list := range [][]acl.Selector{g.From, g.Except, g.ToExcept} {
		if slices.ContainsFunc(list, func(s acl.Selector) bool {
			return s.Kind == acl.KindNone || s.Kind == acl.KindClaim || s.Kind == acl.KindHost
		}) {
			return false
		}
	}
	for name, value := range g.Capabilities {
		if name == "" || !json.Valid(value) {
			return false
		}
	}
	return !slices.ContainsFunc(g.Allow, func(p acl.Ports) bool { return p.Range == acl.RangeNone })
}

// DecodePrincipal reads a principal leaf.
func DecodePrincipal(l Leaf) (p Principal, err error) {
	if err := Decode(l, &p); err != nil {
		return p, err
	}
	if want := PrincipalName(p.Principal); l.Name != want {
		return p, fmt.Errorf("leaf %s: is about %s", l.Name, p.Principal)
	}
	return p, nil
}

func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF { // More would stop before a bracket
		return errors.New("data after the end")
	}
	return nil
}
