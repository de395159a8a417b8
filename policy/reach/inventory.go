package reach

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
)

// An Inventory is the nodes that are admitted. sync makes it from its admission
// log; "sync inventory" prints it.
type Inventory struct {
	Users []InventoryUser `json:"users,omitempty"` // who exist, whether or not they have nodes
	Nodes []Admitted      `json:"nodes"`
}

// An InventoryUser is a person who may have nodes.
type InventoryUser struct {
	Email string `json:"email"`
}

// An Admitted is one node of the inventory: of a user, or with tags.
type Admitted struct {
	Name string     `json:"name"`
	ID   key.NodeID `json:"id,omitzero"`
	User string     `json:"user,omitempty"` // e-mail address
	Tags []string   `json:"tags,omitempty"` // with the prefix "tag:" or without

	// What the admission of the node rests on. Where the policy changes that, the
	// node is out; an inventory that does not say so tells less about who is.
	Basis    string     `json:"basis,omitempty"`   // "pin NAME" or "enrolment NAME"
	Address4 netip.Addr `json:"address4,omitzero"` // what it was given

	Addresses []netip.Addr      `json:"addresses,omitempty"` // its own in the network, Address4 or not
	Local     []netip.Addr      `json:"local,omitempty"`     // its own in the networks that it is attached to
	Routes    Routes            `json:"routes,omitzero"`
	Posture   map[string]string `json:"posture,omitempty"` // what it reports of itself, by attribute
}

// Routes are what a node forwards to.
type Routes struct {
	Advertised []netip.Prefix `json:"advertised,omitempty"`
	Approved   []netip.Prefix `json:"approved,omitempty"` // whatever the policy says
}

// tags are the node's, sorted, without the prefix.
func (n *Admitted) tags() []string {
	if len(n.Tags) == 0 {
		return nil
	}
	out := make([]string, len(n.Tags))
	for i, t := range n.Tags {
		out[i] = strings.TrimPrefix(t, "tag:")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// own are the node's addresses in the network.
func (n *Admitted) own() []netip.Addr {
	out := slices.Clone(n.Addresses)
	if n.Address4.IsValid() && !slices.Contains(out, n.Address4) {
		out = append(out, n.Address4)
	}
	for i := range out {
		out[i] = out[i].Unmap()
	}
	return out
}
