package reach

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// A listed user whose token has a claim has what the user has, and what the claim
// gives to those who are excepted as the user is: no exception names a group with a
// claim in it. The second part is a class for each way of being excepted and each
// claim. Where nothing excepts the user it is what any other user with the claim
// has, and there is no class.

// claimed adds the classes.
func (b *cutter) claimed(claims []string) {
	excepted := map[acl.Selector]bool{}
	for _, side := range b.sp.sides {
		for _, in := range side.policy.allInbound() {
			for i := range in.Grants {
				for _, s := range slices.Concat(in.Grants[i].Except, in.Grants[i].ToExcept) {
					if s.Kind == acl.KindUser || s.Kind == acl.KindGroup {
						excepted[s] = true
					}
				}
			}
		}
	}
	if len(excepted) == 0 || len(claims) == 0 {
		return
	}
	seen, called := map[string]bool{}, map[string]bool{}
	b.sp.exceptedAs = map[string]string{}
	for _, u := range slices.Clone(b.sp.users) {
		user := acl.Selector{Kind: acl.KindUser, Name: u}
		words, key := map[string]bool{}, ""
		if excepted[user] {
			words[u], key = true, u
		}
		for i, side := range b.sp.sides {
			for _, m := range side.policy.Principals[user] {
				if g := (acl.Selector{Kind: acl.KindGroup, Name: m.Group}); excepted[g] {
					words[g.String()] = true
					key += fmt.Sprintf("|%d %s %d", i, m.Group, unix(m.Until))
				}
			}
		}
		if b.sp.exceptedAs[u] = key; key == "" || seen[key] {
			continue
		}
		seen[key] = true
		text := strings.Join(slices.Sorted(maps.Keys(words)), "+")
		if called[text] {
			text = u // others are excepted alike in one policy, and not in the other
		}
		called[text] = true
		for _, c := range claims {
			b.sp.claimed = append(b.sp.claimed, int32(len(b.sp.classes)))
			b.sp.classes = append(b.sp.classes, class{
				until: [3]int64{forever, forever, forever}, user: true, several: true, twice: true, many: true,
				rep: Node{User: u, Claim: c}, claimed: text + " with claim:" + c,
			})
		}
	}
}

// withoutClaimed takes the classes of listed users with claims out of a set.
func (sp *space) withoutClaimed(set bitset) {
	for _, c := range sp.claimed {
		set[c/64] &^= 1 << (c % 64)
	}
}

// against are the selectors that except listed users with claims: for being who
// they are. That they are selected so, too, is the access of the user alone.
func (sp *space) against(c *Compiled) map[acl.Selector][]member {
	out := map[acl.Selector][]member{}
	for _, i := range sp.claimed {
		cl := &sp.classes[i]
		add := func(s acl.Selector, until int64) { out[s] = append(out[s], member{i, until}) }
		user := acl.Selector{Kind: acl.KindUser, Name: cl.rep.User}
		add(acl.Selector{Kind: acl.KindAny}, forever)
		add(acl.Selector{Kind: acl.KindMember}, forever)
		add(user, forever)
		for _, p := range []acl.Selector{user, {Kind: acl.KindClaim, Name: cl.rep.Claim}} {
			for _, m := range c.Principals[p] {
				add(acl.Selector{Kind: acl.KindGroup, Name: m.Group}, unix(m.Until))
			}
		}
	}
	return out
}

// Claims are what an answer that somebody does not reach something rests on: that
// no listed user who is asked about has a claim that gives it, and nobody with a
// claim another. Only who issues the claims says who has them.
func (w *World) Claims(q Question) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.inquire(q)
	sp := w.e.sp
	asked := map[string]bool{} // claims
	users := false
	for i := range in.from.each {
		c := &sp.classes[i]
		users = users || c.kind == nodeEnd && c.user
		if c.many && c.rep.Claim != "" {
			asked[c.rep.Claim] = true
		}
	}
	if !users {
		return nil
	}
	claims := map[string]bool{}
	for i := range sp.classes {
		if c := &sp.classes[i]; c.many && c.rep.Claim != "" && c.claimed == "" && !asked[c.rep.Claim] {
			other := *in
			other.from, other.to = newBitset(len(sp.classes)), in.to.clone()
			other.from.add(i)
			w.giving(&other, func(_, _ int, it *item) {
				// Everybody who is asked about may be excepted.
				set := w.e.sets.sets[it.set]
				for u := range in.from.each {
					if c2 := &sp.classes[u]; c2.kind == nodeEnd && c2.user && !w.exceptedBy(set, c2, c.rep.Claim) {
						claims["claim:"+c.rep.Claim] = true
						return
					}
				}
			})
		}
	}
	var out []string
	for _, c := range slices.Sorted(maps.Keys(claims)) {
		out = append(out, fmt.Sprintf("nobody who is asked about is taken to have %s as well, which gives what is asked about: only who issues it says who has it", c))
	}
	return out
}

// exceptedBy reports whether everybody in a class with the claim is not among
// sources of an item that gives it to others with the claim.
func (w *World) exceptedBy(set bitset, c *class, claim string) bool {
	if len(c.users) == 0 {
		return false
	}
	for _, u := range c.users {
		i := w.e.sp.claimedClass(w.e.sp.users[u], claim)
		if i < 0 || set.has(i) {
			return false
		}
	}
	return true
}

// claimedClass is the class of a user with a claim; -1 where nothing excepts them.
func (sp *space) claimedClass(user, claim string) int {
	if sp.exceptedAs[user] == "" {
		return -1
	}
	return slices.IndexFunc(sp.classes, func(c class) bool {
		return c.claimed != "" && c.rep.Claim == claim && sp.exceptedAs[c.rep.User] == sp.exceptedAs[user]
	})
}
