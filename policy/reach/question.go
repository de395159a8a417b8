package reach

import (
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// A Question asks about all pairs of some ends.
type Question struct {
	// From and To select the ends that any of them selects, less its Except. Nil is
	// every end. Hosts stand as their prefixes or pinned nodes: a selector of
	// acl.KindHost selects nothing.
	From, To []model.Ref
	Outside  bool        // the sources are every end but those of From
	Ports    []acl.Ports // none: every port
	At       time.Time   // when memberships, grants and approvals are judged
	Fixed    bool        // hours are judged at At; otherwise for every hour of the week

	// Capabilities asks about these, too, whatever the ports.
	Capabilities bool

	// Ends tells access apart by when it ends; without, what has not ended counts as
	// if it did not.
	Ends bool

	// Posture is what every source reports, by attribute. Nil: sources report
	// nothing (Missing), or whatever they like (Reachable, Rules).
	Posture map[string]string

	// Assume takes it that there are the addresses of From and To, behind some node
	// where none is known to have them. It is for policies that mean whichever node
	// has an address (network.literalAddresses).
	Assume bool
}

// A Finding is a set of pairs of ends that do, or do not, reach each other: each of
// From and each of To.
type Finding struct {
	From    []string // in the policy's words
	To      []string
	Ports   []string
	People  []string // users among From, by e-mail address
	Nodes   []string // of the inventory among To, by name
	Rules   []string // that allow; empty where access is missing
	Sample  Pair
	When    []string  // hours in words; none: whenever
	Posture []string  // conditions on what the source reports; none: whatever it does
	Until   time.Time // when access ends, where Question.Ends; zero: it does not

	Capabilities []string // NAME = VALUE, where they were asked about
}
