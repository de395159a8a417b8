package admit

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

// An office is an Admitter with all that it needs, and a policy that the test
// writes.
type office struct {
	*Admitter
	t     testing.TB
	w     *netmaptest.World
	dir   string
	ended *trust.Ended
	seq   int64
}

func newOffice(t testing.TB, p policy) *office {
	t.Helper()
	o := &office{t: t, w: netmaptest.New(t, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)), dir: t.TempDir(), seq: 100}
	o.ended = o.w.Ended
	o.open()
	o.SetStanding(o.standing(p))
	return o
}

// open reads the log again, as sync does when it starts.
func (o *office) open() {
	o.t.Helper()
	log, err := OpenLog(o.dir, []*trust.Root{o.w.Root})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { log.Close() })
	o.Admitter = &Admitter{Network: o.w.Network, Sign: o.w.AdmissionKey, Seal: o.w.Seal, Log: log}
}

// A policy is the part of one that this package reads.
type policy struct {
	prefix     string // 100.64.0.0/24
	pins       []leaf.Node
	enrolments []leaf.Enrolment
	revoked    []key.NodeID
}

func (o *office) standing(p policy) *Standing {
	o.t.Helper()
	if p.prefix == "" {
		p.prefix = "100.64.0.0/24"
	}
	var leaves []leaf.Leaf
	add := func(name string, content any) {
		l, err := leaf.Encode(name, content)
		if err != nil {
			o.t.Fatal(err)
		}
		leaves = append(leaves, l)
	}
	add(leaf.NameNetwork, leaf.Network{Name: "acme", Prefix4: netip.MustParsePrefix(p.prefix)})
	for _, n := range p.pins {
		add(leaf.NodeName(n.Name), n)
	}
	for _, e := range p.enrolments {
		add(leaf.EnrolmentName(e.Name), e)
	}
	s, err := NewStanding(trust.Position{Epoch: 1, Seq: o.seq}, leaves, p.revoked, o.ended)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// succeed puts the next revision in force as sync does, and says who is out.
func (o *office) succeed(p policy) map[key.NodeID]string {
	o.t.Helper()
	var out map[key.NodeID]string
	err := o.Succeed(o.standing(p), func(ending map[key.NodeID]string, head key.Hash) (*Standing, error) {
		if head != o.Log.Head() {
			o.t.Errorf("judged the log up to %s, want %s", head, o.Log.Head())
		}
		out = ending
		o.end(ending)
		o.seq++
		return o.standing(p), nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// end adds nodes to the ended list.
func (o *office) end(nodes map[key.NodeID]string) {
	o.t.Helper()
	e := trust.Ended{Network: o.w.Network, Epoch: 1, Number: o.ended.Number + 1, Issued: o.w.Now, Nodes: map[key.NodeID]string{}}
	for _, m := range []map[key.NodeID]string{o.ended.Nodes, nodes} {
		for id, why := range m {
			e.Nodes[id] = why
		}
	}
	var err error
	if o.ended, err = trust.NewEnded(e); err != nil {
		o.t.Fatal(err)
	}
}

// request is a join request with a proof as a node makes it.
func (o *office) request(k key.IdentityPrivate, name string, p papers.Proof) []byte {
	o.t.Helper()
	b, err := papers.NewJoin(o.w.Network, k, name, o.w.Now, o.w.Seal.Public(), p)
	if err != nil {
		o.t.Fatal(err)
	}
	return b
}

// pinned is the request of a node that the policy pins.
func (o *office) pinned(k key.IdentityPrivate, name string) []byte {
	o.t.Helper()
	return o.request(k, name, papers.Proof{Kind: papers.ProofPin})
}

// enrol is the request of a node that has an enrolment secret.
func (o *office) enrol(k key.IdentityPrivate, name string, s papers.EnrolSecret) []byte {
	o.t.Helper()
	return o.request(k, name, s.Proof(o.w.Network, k.Public(), name))
}

// admit decides a request that is to be granted.
func (o *office) admit(k key.IdentityPrivate, request []byte) *papers.Admission {
	o.t.Helper()
	a, note, err := o.Decide(k.Public(), request, o.w.Now)
	if err != nil {
		o.t.Fatal(err)
	}
	opened, err := papers.OpenAdmission(note, o.w.Root)
	if err != nil || opened.Text() != a.Text() {
		o.t.Fatalf("note does not open to the admission: %v", err)
	}
	return a
}

// refused decides a request that is to be refused with exactly that text.
func (o *office) refused(k key.IdentityPrivate, request []byte, want string) {
	o.t.Helper()
	before := o.Len()
	a, note, err := o.Decide(k.Public(), request, o.w.Now)
	var r *Refusal
	if !errors.As(err, &r) || r.Reason != want || a != nil || note != nil {
		o.t.Errorf("got %v, %v\nwant refused: %s", a, err, want)
	}
	if o.Len() != before {
		o.t.Errorf("a refused node is in the log")
	}
}

// An entry is an enrolment entry and its secret.
func entry(name string, names []string, tags ...string) (leaf.Enrolment, papers.EnrolSecret) {
	k := key.NewEnrol()
	return leaf.Enrolment{Name: name, Key: k.Public(), Tags: tags, Names: names},
		papers.EnrolSecret{Entry: name, Tags: tags, Key: k}
}

// crowd admits n nodes by the entry, with new keys and names of that prefix.
func (o *office) crowd(n int, prefix string, s papers.EnrolSecret) (out []key.IdentityPrivate) {
	o.t.Helper()
	for i := range n {
		k := key.NewIdentity()
		o.admit(k, o.enrol(k, fmt.Sprintf("%s%d", prefix, i+1), s))
		out = append(out, k)
	}
	return out
}
