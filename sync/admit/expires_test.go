package admit

import (
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
)

// An entry admits until the moment at which it ends; whom it admitted, stays, and
// gets the same admission again.
func TestEnrolmentEnds(t *testing.T) {
	fleet, secret := entry("fleet", []string{"db-*"}, "db")
	p := policy{enrolments: []leaf.Enrolment{fleet}}
	o := newOffice(t, p)
	p.enrolments[0].Expires = o.w.Now.Add(time.Second)
	if out := o.succeed(p); len(out) != 0 {
		t.Errorf("an end that is to come puts out %v, want nobody", out)
	}
	in, late := key.NewIdentity(), key.NewIdentity()
	first := o.admit(in, o.enrol(in, "db-1", secret))
	o.w.Now = o.w.Now.Add(time.Second)
	o.refused(late, o.enrol(late, "db-2", secret), `enrolment entry "fleet" ended at 2026-11-22T10:00:01Z`)
	if again := o.admit(in, o.enrol(in, "db-1", secret)); again.Text() != first.Text() {
		t.Errorf("admitted before the end, asked after it: got\n%s\nwant\n%s", again.Text(), first.Text())
	}
	if out := o.succeed(p); len(out) != 0 {
		t.Errorf("an entry that has ended puts out %v, want nobody", out)
	}
}

// Only whoever has the secret is told when it ended.
func TestEndedEntrySaysSoToItsHolder(t *testing.T) {
	fleet, secret := entry("fleet", []string{"db-*"}, "db")
	_, other := entry("other", []string{"db-*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	fleet.Expires = o.w.Now
	o.succeed(policy{enrolments: []leaf.Enrolment{fleet}})
	other.Entry = "fleet"
	k := key.NewIdentity()
	o.refused(k, o.enrol(k, "db-1", other), `the secret is not the one of enrolment entry "fleet"`)
	o.refused(k, o.enrol(k, "db-1", secret), `enrolment entry "fleet" ended at 2026-11-22T10:00:00Z`)
}
