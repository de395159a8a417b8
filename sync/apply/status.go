package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/sync/report"
)

// A Status is what an operator should know.
type Status struct {
	Version     int64              `json:"version"` // rises with every change worth telling
	Network     key.NetworkID      `json:"network"`
	Head        string             `json:"head,omitempty"` // of the branch, as last fetched
	Applied     string             `json:"applied,omitempty"`
	Seq         int64              `json:"seq,omitempty"`
	Refused     *Refused           `json:"refused,omitempty"` // the head, if it was refused
	Waiting     string             `json:"waiting,omitempty"` // why the head is neither applied nor refused yet
	Last        *Applied           `json:"last,omitempty"`    // how the newest revision came about
	Convergence report.Convergence `json:"convergence"`
	Nodes       int                `json:"nodes"`
	Log         int64              `json:"log"` // admissions ever signed
	Coordinator []Link             `json:"coordinators"`
	Fetch       string             `json:"fetch,omitempty"` // why fetching fails
}

// A Refused is a commit that was not applied, and why.
type Refused struct {
	Commit string    `json:"commit"`
	At     time.Time `json:"at"`
	Stage  string    `json:"stage"` // "ancestry", "signature", "policy", "tests", "guards"
	Reason string    `json:"reason"`
}

func (r *Refused) Error() string {
	return fmt.Sprintf("commit %s refused (%s): %s", trust.Commit(r.Commit).Short(), r.Stage, r.Reason)
}

// An Applied is a revision and how long its making took.
type Applied struct {
	Commit     string            `json:"commit"`
	At         time.Time         `json:"at"`
	Signer     string            `json:"signer,omitempty"`
	Took       time.Duration     `json:"took"` // from the fetched head to the signed revision
	Tests      int               `json:"tests"`
	Assertions int               `json:"assertions"`
	Difference *reach.Difference `json:"difference"`
}

// update changes the status and tells who waits for it.
func (a *Applier) update(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
	a.status.Version++
	close(a.changed)
	a.changed = make(chan struct{})
}

// Status is the status, and a channel that is closed when it has changed.
func (a *Applier) Status() (Status, <-chan struct{}) {
	// The version is read first: what is read after it may be newer, and then a
	// change of the version follows.
	a.mu.Lock()
	s, changed := a.status, a.changed
	a.mu.Unlock()
	s.Convergence, _ = a.reporter.Convergence()
	var ended *trust.Ended
	if cur := a.publisher.Current(); cur != nil {
		s.Applied, s.Seq, ended = string(cur.Manifest.Commit), cur.Manifest.Seq, cur.Ended
	}
	live, _, n := a.admitter.Inventory(ended)
	s.Nodes, s.Log = len(live), n
	if f := a.watcher.Status(); f.Err != nil {
		s.Fetch = f.Err.Error()
	}
	for _, l := range a.coordinators {
		s.Coordinator = append(s.Coordinator, l.status())
	}
	return s, changed
}

// OK reports whether everything is as it should be: the head of the branch is
// applied, every coordinator has the revision, and every node enforces it.
func (s *Status) OK() bool {
	for _, c := range s.Coordinator {
		if c.Error != "" || c.Seq != s.Seq {
			return false
		}
	}
	return s.Applied != "" && s.Applied == s.Head && s.Refused == nil && s.Waiting == "" && s.Fetch == "" &&
		s.Convergence.Enforced == s.Convergence.Of
}

// watchConvergence logs how far the revision is enforced, whenever that changes.
func (a *Applier) watchConvergence(ctx context.Context) {
	was := ""
	for {
		c, changed := a.reporter.Convergence()
		observe(c)
		if text := c.String(); text != was && c.Commit != "" {
			was = text
			a.log.Info(text, "took", c.Took.Round(time.Millisecond))
			a.update(func(*Status) {})
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
