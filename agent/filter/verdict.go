package filter

// A Direction is which way a packet goes.
type Direction uint8

// The directions.
const (
	In  Direction = iota // from a peer to this node
	Out                  // from this node to a peer
)

func (d Direction) String() string {
	if d == In {
		return "in"
	}
	return "out"
}

func (d Direction) reverse() Direction { return d ^ 1 }

// An Action is what happens to a packet.
type Action uint8

// The actions. The zero Action drops.
const (
	Drop Action = iota
	Pass
)

func (a Action) String() string {
	if a == Pass {
		return "pass"
	}
	return "drop"
}

// A Reason says why a packet passed or did not. The list is closed and only
// grows at its end; a reason belongs to one action.
type Reason uint8

// The reasons.
const (
	Unjudged        Reason = iota // drop: the zero Reason
	Granted                       // pass: a rule allows it
	Known                         // pass: it belongs to a flow that is allowed
	Begun                         // pass: this node sends it to a peer
	FlowError                     // pass: an ICMP error about a live flow
	LaterFragment                 // pass: a fragment of a packet that passed
	NoRules                       // drop: nothing was swapped in yet
	Malformed                     // drop: package packet says why
	NotAPeer                      // drop: the far address belongs to no peer
	NotOurs                       // drop: the near address is not this node's
	Multicast                     // drop: to many, where there is one
	NoGrant                       // drop: no rule allows it
	Ended                         // drop: what allowed it ended
	FlowCut                       // drop: its flow is no longer allowed
	NoFlow                        // drop: it cannot begin a flow, and belongs to none
	BadFlags                      // drop: TCP flags that no host sends
	Redirect                      // drop: an ICMP redirect
	UnknownFragment               // drop: a fragment whose first did not pass
	OverlapFragment               // drop: a fragment that overlaps its first
	PeerFull                      // drop: too many flows with this peer
	TableFull                     // drop: too many flows
	Neighbour                     // drop: IPv6 neighbour discovery, which is for one link
	reasons
)

// Reasons is the number of reasons.
const Reasons = int(reasons)

var reasonNames = [reasons]string{
	"unjudged", "granted", "known flow", "begun here", "error of a known flow", "later fragment",
	"no rules yet", "malformed", "not a peer", "not ours", "multicast", "no grant", "grant ended", "flow cut", "no flow",
	"bad TCP flags", "redirect", "unknown fragment", "overlapping fragment", "too many flows with this peer", "too many flows",
	"neighbour discovery",
}

func (r Reason) String() string {
	if r >= reasons {
		return "unknown reason"
	}
	return reasonNames[r]
}

// Action is the action that the reason belongs to.
func (r Reason) Action() Action {
	if Granted <= r && r <= LaterFragment {
		return Pass
	}
	return Drop
}

// A Verdict is the answer to a packet. The zero Verdict drops.
type Verdict struct {
	Action Action
	Reason Reason
}

func verdict(r Reason) Verdict { return Verdict{r.Action(), r} }

func (v Verdict) String() string { return v.Action.String() + ": " + v.Reason.String() }
