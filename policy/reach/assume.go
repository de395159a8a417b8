package reach

import (
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

// assume notes the addresses that questions take to be somewhere. All addresses of
// a family are what is behind routes, whichever there are: nothing more is supposed
// of them.
func (sp *space) assume(asked []Question) {
	for _, q := range asked {
		if !q.Assume {
			continue
		}
		for _, r := range slices.Concat(q.From, q.To) {
			if p := r.Selector.Prefix(); r.Selector.Kind == acl.KindPrefix && p.Bits() > 0 {
				sp.supposed = append(sp.supposed, p)
			}
		}
	}
}
