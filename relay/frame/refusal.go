package frame

import "fmt"

// A Kind is why a relay refuses a node. The list is closed and only grows; a
// kind that the node does not know is treated as Busy.
type Kind byte

const (
	NotReady    Kind = 1 // the relay knows no network yet and refuses everybody
	NotAdmitted Kind = 2 // the papers do not verify, or belong to another key
	Ended       Kind = 3 // the admission has expired
	Revoked     Kind = 4 // the ended list names the node
	Replaced    Kind = 5 // the same identity has connected again, elsewhere
	Violation   Kind = 6 // a frame was not as this package says
	Busy        Kind = 7 // too many connections; try again later
)

func (k Kind) String() string {
	switch k {
	case NotReady:
		return "not ready"
	case NotAdmitted:
		return "not admitted"
	case Ended:
		return "admission ended"
	case Revoked:
		return "revoked"
	case Replaced:
		return "replaced by a newer connection"
	case Violation:
		return "protocol error"
	case Busy:
		return "busy"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// A Refusal is the relay's reason to end a connection, as an error. An
// admitter returns one to choose the kind.
type Refusal struct {
	Kind Kind
	Text string // for people: what exactly; may be empty
}

func (r *Refusal) Error() string {
	if r.Text == "" {
		return "refused by the relay: " + r.Kind.String()
	}
	return "refused by the relay: " + r.Kind.String() + ": " + r.Text
}
