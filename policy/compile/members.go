package compile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// flatten finds every group of every user, tag and claim.
func flatten(p *model.Policy) (map[acl.Selector][]acl.Membership, error) {
	above := map[acl.Selector][]model.Member{} // member → its groups, as members of themselves
	for _, g := range p.Groups {
		for _, m := range g.Members {
			above[m.Selector] = append(above[m.Selector], model.Member{
				Selector: acl.Selector{Kind: acl.KindGroup, Name: g.Name}, Until: m.Until,
			})
		}
	}
	out := map[acl.Selector][]acl.Membership{}
	for principal := range above {
		if principal.Kind == acl.KindGroup {
			continue
		}
		ends := map[string]time.Time{}
		if err := climb(principal, time.Time{}, above, ends, 0); err != nil {
			return nil, err
		}
		for _, group := range slices.Sorted(maps.Keys(ends)) {
			out[principal] = append(out[principal], acl.Membership{Group: group, Until: ends[group]})
		}
	}
	return out, nil
}

// maxNesting ends a climb that goes round; a checked policy has no cycles.
const maxNesting = 1000

// climb records in ends every group above the member, with the latest end by
// which it is reached. A group is climbed again only where a way lasts longer
// than the one known.
func climb(member acl.Selector, until time.Time, above map[acl.Selector][]model.Member, ends map[string]time.Time, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("compile: groups nest more than %d deep at %s", maxNesting, member)
	}
	for _, group := range above[member] {
		end := earlier(until, group.Until)
		if known, ok := ends[group.Selector.Name]; ok && !later(end, known) {
			continue
		}
		ends[group.Selector.Name] = end
		if err := climb(group.Selector, end, above, ends, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// later reports whether end a is after end b; zero is without end.
func later(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

func earlier(a, b time.Time) time.Time {
	if later(a, b) {
		return b
	}
	return a
}
