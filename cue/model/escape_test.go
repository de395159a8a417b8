package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
)

// A person is who a rule is asked about: a user, and the claims that they show.
type person struct {
	user   string
	claims []string
}

// in reports whether the person is in a group, read straight from the policy.
func (who person) in(p *Policy, group string, seen map[string]bool) bool {
	if seen[group] {
		return false
	}
	seen[group] = true
	for _, g := range p.Groups {
		if g.Name != group {
			continue
		}
		for _, m := range g.Members {
			switch m.Selector.Kind {
			case acl.KindUser:
				if m.Selector.Name == who.user {
					return true
				}
			case acl.KindClaim:
				if slices.Contains(who.claims, m.Selector.Name) {
					return true
				}
			case acl.KindGroup:
				if who.in(p, m.Selector.Name, seen) {
					return true
				}
			}
		}
	}
	return false
}

func (who person) is(p *Policy, s acl.Selector) bool {
	switch s.Kind {
	case acl.KindUser:
		return s.Name == who.user
	case acl.KindGroup:
		return who.in(p, s.Name, map[string]bool{})
	case acl.KindAny, acl.KindMember:
		return true
	default:
		return false
	}
}

// may reports whether one of refs selects the person.
func (who person) may(p *Policy, refs []Ref) bool {
	return slices.ContainsFunc(refs, func(r Ref) bool {
		return who.is(p, r.Selector) && !slices.ContainsFunc(r.Except, func(e Exception) bool { return who.is(p, e.Selector) })
	})
}

// TestNobodyEscapes holds that in a policy that is accepted nobody has more access
// for hiding claims of their login; and that among those that are refused for it
// there are some where somebody would have.
func TestNobodyEscapes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	groups := []string{"a", "b", "c", "d"}
	users := []string{"u@x.example", "v@x.example"}
	claims := []string{"g=1", "g=2"}
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	selector := func() acl.Selector {
		switch r.IntN(4) {
		case 0:
			return acl.Selector{Kind: acl.KindUser, Name: pick(users)}
		case 1:
			return acl.Selector{Kind: acl.KindMember}
		default:
			return acl.Selector{Kind: acl.KindGroup, Name: pick(groups)}
		}
	}
	accepted, escapes := 0, 0
	for range 4000 {
		p := &Policy{}
		for i, name := range groups {
			g := Group{Name: name}
			for range r.IntN(3) {
				switch k := r.IntN(3); {
				case k == 0:
					g.Members = append(g.Members, Member{Selector: acl.Selector{Kind: acl.KindUser, Name: pick(users)}})
				case k == 1:
					g.Members = append(g.Members, Member{Selector: acl.Selector{Kind: acl.KindClaim, Name: pick(claims)}})
				case i > 0: // no cycles
					g.Members = append(g.Members, Member{Selector: acl.Selector{Kind: acl.KindGroup, Name: groups[r.IntN(i)]}})
				}
			}
			p.Groups = append(p.Groups, g)
		}
		from := Ref{Selector: selector()}
		for range 1 + r.IntN(2) {
			from.Except = append(from.Except, Exception{Selector: selector()})
		}
		p.Rules = []Rule{{Name: "r", From: []Ref{{Selector: selector()}, from}, To: []Ref{{Selector: acl.Selector{Kind: acl.KindAny}}}}}
		err := p.Check()
		escape := ""
		for _, user := range users {
			for shown := range 4 {
				for hidden := range 4 {
					if shown&hidden != shown {
						continue // what is shown is part of what there is
					}
					less, all := person{user: user}, person{user: user}
					for i, c := range claims {
						if shown>>i&1 == 1 {
							less.claims = append(less.claims, c)
						}
						if hidden>>i&1 == 1 {
							all.claims = append(all.claims, c)
						}
					}
					if less.may(p, p.Rules[0].From) && !all.may(p, p.Rules[0].From) {
						escape = fmt.Sprintf("%s with %v and not with %v", user, less.claims, all.claims)
					}
				}
			}
		}
		switch {
		case err == nil && escape != "":
			t.Fatalf("accepted, and gives access to %s: from %v, groups %+v", escape, p.Rules[0].From, p.Groups)
		case err == nil:
			accepted++
		case escape != "" && strings.Contains(err.Error(), "would escape"):
			escapes++
		}
	}
	if accepted < 100 || escapes < 100 {
		t.Errorf("%d policies accepted, %d refused where somebody would escape: want at least 100 of each", accepted, escapes)
	}
}
