package apply

import (
	"errors"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/build"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/sync/admit"
	"github.com/writmesh/writ/sync/publish"
)

// errJoined says that nodes were admitted since the commit was judged.
var errJoined = errors.New("nodes were admitted since the commit was judged")

// decide makes the next revision of a judged commit. With exact set, the error is
// errJoined where the nodes that were counted are not those that are admitted.
func (a *Applier) decide(j *judged, began time.Time, exact bool) error {
	r := j.result
	var before *build.Origins
	cur := a.publisher.Current()
	var ended *trust.Ended
	if cur != nil {
		ended = cur.Ended
		if cur.Origins != nil {
			var err error
			if before, err = build.ParseOrigins(cur.Origins); err != nil {
				return err
			}
		}
	}
	origins, err := r.Origins(before).Encode()
	if err != nil {
		return err
	}
	var revoked []key.NodeID
	for _, n := range r.Policy.Revoked {
		revoked = append(revoked, n.Node)
	}
	next, err := admit.NewStanding(trust.Position{}, r.Leaves, revoked, ended)
	if err != nil {
		return err
	}
	var rev *publish.Revision
	err = a.admitter.Succeed(next, func(ending map[key.NodeID]string, head key.Hash) (*admit.Standing, error) {
		if exact && head != j.log {
			return nil, errJoined
		}
		rev, err = a.publisher.Decide(publish.Compiled{
			Commit: trust.Commit(j.commit), Source: r.Source, Compiler: compile.Version, Leaves: r.Leaves,
			Revoked: revoked, Origins: origins, Ending: ending, Judged: j.log,
		}, time.Now())
		if err != nil {
			return nil, err
		}
		return admit.NewStanding(rev.Manifest.Position, rev.Leaves, rev.Revoked, rev.Ended)
	})
	if err != nil {
		return err
	}
	a.base = r
	took := time.Since(began)
	a.log.Info("revision signed", "commit", trust.Commit(j.commit).Short(), "signer", j.signer, "revision", rev.Manifest.Position,
		"gained", len(r.Difference.Gained), "lost", len(r.Difference.Lost), "admission", len(r.Difference.Admission), "took", took.Round(time.Millisecond))
	a.update(func(s *Status) {
		s.Last = &Applied{
			Commit: j.commit, At: rev.Manifest.Issued, Signer: j.signer, Took: took,
			Tests: len(r.Tests.Tests), Assertions: r.Tests.Assertions, Difference: r.Difference,
		}
	})
	a.target(rev, time.Now())
	return nil
}
