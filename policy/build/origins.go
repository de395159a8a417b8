package build

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/leaf"
)

// Origins is the document that says where each rule comes from. Agents do not
// need it; "why" fetches it. It is not a leaf, because a line inserted above a
// rule changes it.
type Origins struct {
	Rules map[string]Origin `json:"rules"`
}

// An Origin is where a rule stands, and the commit that last changed what it
// compiles to.
type Origin struct {
	Place  string   `json:"place"` // file:line
	Commit string   `json:"commit,omitempty"`
	Author string   `json:"author,omitempty"`
	From   []string `json:"from,omitempty"` // file:line of what a computed rule is made of
	Grants string   `json:"grants"`         // what it compiles to, to be compared
}

// Origins are the origins of the result's rules; those that compile to the same
// as before keep the commit and author they had.
func (r *Result) Origins(before *Origins) *Origins {
	grants := map[string][]string{}
	add := func(list []acl.Inbound, route string) {
		for _, in := range list {
			for _, g := range in.Grants {
				b, _ := json.Marshal(struct {
					To    acl.Selector
					G     acl.Grant
					Route string `json:",omitempty"`
				}{in.To, g, route}) // selectors and ports that were read have texts
				grants[g.Rule] = append(grants[g.Rule], string(b))
			}
		}
	}
	add(r.Compiled.Inbound, "")
	for i := range r.Compiled.Routes {
		add(r.Compiled.Routes[i].Inbound, leaf.RouteName(&r.Compiled.Routes[i]))
	}
	out := &Origins{Rules: map[string]Origin{}}
	for _, rule := range r.Policy.Rules {
		slices.Sort(grants[rule.Name])
		o := Origin{Place: fmt.Sprintf("%s:%d", rule.Place.File, rule.Place.Line), Grants: fmt.Sprint(grants[rule.Name])}
		for _, at := range rule.Origin {
			o.From = append(o.From, fmt.Sprintf("%s:%d", at.File, at.Line))
		}
		if c := r.Tree.Commit; c != nil {
			o.Commit, o.Author = c.Hash, c.Email
		}
		if before != nil {
			if old, ok := before.Rules[rule.Name]; ok && old.Grants == o.Grants {
				o.Commit, o.Author = old.Commit, old.Author
			}
		}
		out.Rules[rule.Name] = o
	}
	return out
}

// Encode is the document: the same origins have the same bytes.
func (o *Origins) Encode() ([]byte, error) { return json.Marshal(o) } // maps are written sorted

// ParseOrigins reads a document.
func ParseOrigins(b []byte) (*Origins, error) {
	o := &Origins{}
	if err := json.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("origins: %w", err)
	}
	return o, nil
}
