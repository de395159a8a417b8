package admit

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestWhatAnAdmissionSays(t *testing.T) {
	alice, router, db := key.NewIdentity(), key.NewIdentity(), key.NewIdentity()
	fleet, secret := entry("fleet", []string{"db-*"}, "accounting", "db")
	o := newOffice(t, policy{
		pins: []leaf.Node{
			{Name: "alice-laptop", Key: alice.Public(), User: "alice@acme.example", Address4: addr("100.64.0.77")},
			{Name: "router", Key: router.Public(), Tags: []string{"router"}},
		},
		enrolments: []leaf.Enrolment{fleet},
	})
	got := []*papers.Admission{
		o.admit(alice, o.pinned(alice, "alice-laptop")),
		o.admit(router, o.pinned(router, "router")),
		o.admit(db, o.enrol(db, "db-1", secret)),
	}
	want := []papers.Admission{
		{Identity: alice.Public(), Name: "alice-laptop", IPv4: addr("100.64.0.77"),
			User:  &acl.User{Email: "alice@acme.example", Issuer: "git", Subject: "alice@acme.example"},
			Basis: papers.Basis{Kind: "pin", Name: "alice-laptop"}},
		{Identity: router.Public(), Name: "router", IPv4: addr("100.64.0.1"), Tags: []string{"router"},
			Basis: papers.Basis{Kind: "pin", Name: "router"}},
		{Identity: db.Public(), Name: "db-1", IPv4: addr("100.64.0.2"), Tags: []string{"accounting", "db"},
			Basis: papers.Basis{Kind: "enrolment", Name: "fleet"}},
	}
	for i, w := range want {
		w.Network, w.Log, w.Serial = o.w.Network, int64(i+1), 1
		if i > 0 {
			w.Prev = got[i-1].Hash()
		}
		w.IPv6 = papers.Address6(o.w.Network, w.Identity)
		w.Decided, w.Issued = trust.Position{Epoch: 1, Seq: 100}, o.w.Now
		if got[i].Text() != w.Text() {
			t.Errorf("got\n%swant\n%s", got[i].Text(), w.Text())
		}
	}
}

func TestRefusals(t *testing.T) {
	alice, bob, carol := key.NewIdentity(), key.NewIdentity(), key.NewIdentity()
	fleet, secret := entry("fleet", []string{"db-*", "cache"}, "accounting", "db")
	other, otherSecret := entry("other", []string{"*"}, "accounting", "db")
	o := newOffice(t, policy{
		pins: []leaf.Node{
			{Name: "alice-laptop", Key: alice.Public(), User: "alice@acme.example"},
			{Name: "db-9", Key: bob.Public(), Tags: []string{"db"}, Address4: addr("100.64.0.1")},
		},
		enrolments: []leaf.Enrolment{fleet, other},
	})
	first := key.NewIdentity()
	o.admit(first, o.enrol(first, "db-1", secret))

	// sealed is a request for db-2 by carol around anything sealed to anybody.
	sealed := func(to key.SealPublic, info, text string) []byte {
		proof, err := to.Seal([]byte(info), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		j := papers.Join{Network: o.w.Network, Identity: carol.Public(), Name: "db-2", Issued: o.w.Now, Proof: proof}
		note, err := trust.SignAs(j.Text(), carol)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	info := func(n key.NetworkID) string { return "writ/proof/v1\n" + n.String() }
	mine := func(change func(*papers.Proof)) string {
		p := secret.Proof(o.w.Network, carol.Public(), "db-2")
		p.Network, p.Identity, p.Name = o.w.Network, carol.Public(), "db-2"
		change(&p)
		return p.Text()
	}
	same := func(*papers.Proof) {}
	alien := key.NetworkID{7}
	foreign, err := papers.NewJoin(alien, carol, "db-2", o.w.Now, o.w.Seal.Public(), secret.Proof(alien, carol.Public(), "db-2"))
	if err != nil {
		t.Fatal(err)
	}
	retagged := secret
	retagged.Tags = []string{"accounting"}
	wrongKey := secret
	wrongKey.Key = otherSecret.Key
	unknown := secret
	unknown.Entry = "nobody"
	wrongName := secret.Proof(o.w.Network, carol.Public(), "db-3")
	wrongNode := secret.Proof(o.w.Network, first.Public(), "db-2")
	wrongNet := secret.Proof(alien, carol.Public(), "db-2")
	moreTags := secret.Proof(o.w.Network, carol.Public(), "db-2")
	moreTags.Tags = []string{"accounting", "admin", "db"}

	const (
		unverified = "the join request does not verify"
		unopened   = "the join request's proof cannot be opened: it was sealed for another sync, or damaged"
		notSecret  = `the secret is not the one of enrolment entry "fleet"`
	)
	good := o.enrol(carol, "db-2", secret)
	for _, c := range []struct {
		name    string
		by      key.IdentityPrivate
		request []byte
		want    string
	}{
		{"nothing", carol, nil, unverified},
		{"not a note", carol, []byte("join"), unverified},
		{"handed in by another key", bob, good, unverified},
		{"changed on the way", carol, []byte(strings.Replace(string(good), "name db-2", "name db-3", 1)), unverified},
		{"of another network", carol, foreign, unverified},
		{"larger than a request may be", carol, append(good, make([]byte, papers.MaxJoin)...), unverified},

		{"sealed for another sync", carol, sealed(key.NewSeal().Public(), info(o.w.Network), mine(same)), unopened},
		{"sealed for another network", carol, sealed(o.w.Seal.Public(), info(alien), mine(same)), unopened},
		{"about another network", carol, sealed(o.w.Seal.Public(), info(o.w.Network), mine(func(p *papers.Proof) { p.Network = alien })), unopened},
		{"about another identity", carol, sealed(o.w.Seal.Public(), info(o.w.Network), mine(func(p *papers.Proof) { p.Identity = first.Public() })), unopened},
		{"about another name", carol, sealed(o.w.Seal.Public(), info(o.w.Network), mine(func(p *papers.Proof) { p.Name = "db-3" })), unopened},
		{"of an unknown kind", carol, sealed(o.w.Seal.Public(), info(o.w.Network), mine(func(p *papers.Proof) { p.Kind = "login" })), unopened},
		{"not a proof", carol, sealed(o.w.Seal.Public(), info(o.w.Network), "let me in"), unopened},

		{"pinned by nobody", carol, o.pinned(carol, "db-2"),
			`the policy has no node "db-2" with the identity key ` + carol.Public().String()},
		{"a name that is pinned for another", carol, o.pinned(carol, "alice-laptop"),
			`the policy has no node "alice-laptop" with the identity key ` + carol.Public().String()},
		{"pinned under another name", alice, o.pinned(alice, "alice-desktop"),
			`the policy pins this identity key as "alice-laptop", not as "alice-desktop"`},
		{"pinned under another name that is pinned too", alice, o.pinned(alice, "db-9"),
			`the policy pins this identity key as "alice-laptop", not as "db-9"`},

		{"an entry that is not there", carol, o.enrol(carol, "db-2", unknown), `the policy has no enrolment entry "nobody"`},
		{"the secret of another entry", carol, o.enrol(carol, "db-2", wrongKey), notSecret},
		{"a signature for another name", carol, o.request(carol, "db-2", wrongName), notSecret},
		{"a signature for another node", carol, o.request(carol, "db-2", wrongNode), notSecret},
		{"a signature for another network", carol, o.request(carol, "db-2", wrongNet), notSecret},
		{"tags that nobody signed", carol, o.request(carol, "db-2", moreTags), notSecret},
		{"tags that the entry had once", carol, o.enrol(carol, "db-2", retagged),
			`enrolment entry "fleet" gives the tags accounting, db, the secret is for accounting`},
		{"a name outside the patterns", carol, o.enrol(carol, "web-1", secret),
			`enrolment entry "fleet" is for nodes named db-*, cache, not "web-1"`},
		{"a name pinned for another key", carol, o.enrol(carol, "db-9", secret),
			`the policy pins the name "db-9" for another identity key`},
		{"a key that is pinned", alice, o.enrol(alice, "db-2", secret),
			`the policy pins this identity key as "alice-laptop"; it joins without an enrolment secret`},
		{"a name that is taken", carol, o.enrol(carol, "db-1", secret), `the name "db-1" is another node's`},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := *o
			o.t = t
			o.refused(c.by, c.request, c.want)
		})
	}
	if a := o.admit(carol, good); a.Name != "db-2" {
		t.Errorf("the request that the others were made from is admitted as %q", a.Name)
	}
}

// A live node keeps its address and name, whatever is pinned later; the pin gets
// them once that node has ended.
func TestPinOfWhatIsTaken(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	old, next := key.NewIdentity(), key.NewIdentity()
	if a := o.admit(old, o.enrol(old, "db-1", secret)); a.IPv4 != addr("100.64.0.1") {
		t.Fatalf("got %s, want 100.64.0.1", a.IPv4)
	}
	taken := leaf.Node{Name: "new", Key: next.Public(), Tags: []string{"db"}, Address4: addr("100.64.0.1")}
	p := policy{enrolments: []leaf.Enrolment{fleet}, pins: []leaf.Node{taken}}
	if out := o.succeed(p); len(out) != 0 {
		t.Errorf("a new pin ends %v, want nobody", out)
	}
	o.refused(next, o.pinned(next, "new"), "the pinned address 100.64.0.1 is still another node's")
	p.pins[0] = leaf.Node{Name: "db-1", Key: next.Public(), Tags: []string{"db"}}
	o.succeed(p)
	o.refused(next, o.pinned(next, "db-1"), `the name "db-1" is another node's`)
	p.pins[0].Address4 = addr("100.64.0.1")
	p.revoked = []key.NodeID{old.Public().NodeID()}
	o.succeed(p)
	if a := o.admit(next, o.pinned(next, "db-1")); a.IPv4 != addr("100.64.0.1") || a.Name != "db-1" {
		t.Errorf("got %s %s, want db-1 100.64.0.1", a.Name, a.IPv4)
	}
}

func TestSecondRequestGetsTheSameAdmission(t *testing.T) {
	fleet, secret := entry("fleet", []string{"db-*"}, "db")
	p := policy{enrolments: []leaf.Enrolment{fleet}}
	o := newOffice(t, p)
	k := key.NewIdentity()
	o.admit(k, o.enrol(k, "db-1", secret))
	_, first, err := o.Decide(k.Public(), o.enrol(k, "db-1", secret), o.w.Now)
	if err != nil {
		t.Fatal(err)
	}
	again := func(when string, request []byte) {
		t.Helper()
		_, note, err := o.Decide(k.Public(), request, o.w.Now.Add(1e12))
		if err != nil || string(note) != string(first) {
			t.Errorf("%s: %v, got\n%swant\n%s", when, err, note, first)
		}
		if o.Len() != 1 {
			t.Errorf("%s: %d admissions, want 1", when, o.Len())
		}
	}
	again("the same request", o.enrol(k, "db-1", secret))
	again("another name", o.enrol(k, "db-2", secret))
	again("another proof", o.pinned(k, "db-1"))
	o.succeed(p)
	again("under the next revision", o.enrol(k, "db-1", secret))
	o.Log.Close()
	o.open()
	o.SetStanding(o.standing(p))
	again("after a restart", o.enrol(k, "db-1", secret))
}

func TestNotReadyWithoutARevision(t *testing.T) {
	_, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{})
	o.SetStanding(nil)
	k := key.NewIdentity()
	if _, _, err := o.Decide(k.Public(), o.enrol(k, "db-1", secret), o.w.Now); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v, want %v", err, ErrNotReady)
	}
}

func TestWhoIsOutStaysOut(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	p := policy{enrolments: []leaf.Enrolment{fleet}}
	o := newOffice(t, p)
	k, never := key.NewIdentity(), key.NewIdentity()
	o.admit(k, o.enrol(k, "db-1", secret))
	// A key can be revoked that was never admitted: one that was stolen unused.
	p.revoked = []key.NodeID{never.Public().NodeID()}
	if out, want := o.succeed(p), (map[key.NodeID]string{never.Public().NodeID(): "revoked"}); !maps.Equal(out, want) {
		t.Errorf("out: %v, want %v", out, want)
	}
	o.refused(never, o.enrol(never, "db-2", secret), "this identity key is out of the network (revoked); a new one may join")
	if out := o.succeed(policy{}); out[k.Public().NodeID()] != "enrolment" {
		t.Errorf("out: %v, want %s (enrolment)", out, k.Public().NodeID())
	}
	// Even where the entry and the key return to the policy.
	o.succeed(policy{enrolments: []leaf.Enrolment{fleet}, pins: []leaf.Node{{Name: "db-1", Key: k.Public(), Tags: []string{"db"}}}})
	out := "this identity key is out of the network (enrolment); a new one may join"
	o.refused(k, o.enrol(k, "db-1", secret), out)
	o.refused(k, o.pinned(k, "db-1"), out)
	o.refused(never, o.enrol(never, "db-2", secret), "this identity key is out of the network (revoked); a new one may join")

	// Revoked in the standing alone, as before the ended list is decided.
	other := key.NewIdentity()
	o.SetStanding(o.standing(policy{enrolments: []leaf.Enrolment{fleet}, revoked: []key.NodeID{other.Public().NodeID()}}))
	o.refused(other, o.enrol(other, "db-3", secret), "this identity key is out of the network (revoked); a new one may join")
}

func TestLeasesOfATinyPrefix(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	for prefix, want := range map[string][]string{
		"10.9.8.0/30":        {"10.9.8.1", "10.9.8.2"},
		"10.9.8.7/30":        {"10.9.8.5", "10.9.8.6"}, // given unmasked
		"10.9.8.0/31":        nil,
		"10.9.8.0/32":        nil,
		"255.255.255.252/30": {"255.255.255.253", "255.255.255.254"},
	} {
		t.Run(prefix, func(t *testing.T) {
			p := policy{prefix: prefix, enrolments: []leaf.Enrolment{fleet}}
			o := newOffice(t, p)
			for i, w := range want {
				k := key.NewIdentity()
				if a := o.admit(k, o.enrol(k, fmt.Sprintf("db-%d", i), secret)); a.IPv4 != addr(w) {
					t.Errorf("node %d got %s, want %s", i, a.IPv4, w)
				}
			}
			k := key.NewIdentity()
			_, _, err := o.Decide(k.Public(), o.enrol(k, "late", secret), o.w.Now)
			var r *Refusal
			if full := fmt.Sprintf("lease an address: every address of %s is taken", prefix); err == nil || errors.As(err, &r) || err.Error() != full {
				t.Errorf("got %v, want %s", err, full)
			}
		})
	}
}

// The oracle knows of each address who has it, and looks from the lowest.
func TestLeasesLikeAnOracle(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	fleet, secret := entry("fleet", []string{"*"}, "db")
	p := policy{prefix: "10.0.0.0/28", enrolments: []leaf.Enrolment{fleet}}
	pin := key.NewIdentity()
	p.pins = []leaf.Node{{Name: "pin", Key: pin.Public(), Tags: []string{"db"}, Address4: addr("10.0.0.3")}}
	o := newOffice(t, p)
	has := map[netip.Addr]key.NodeID{}
	free := func() (netip.Addr, bool) {
		for i := 1; i <= 14; i++ {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if _, taken := has[a]; !taken && a != addr("10.0.0.3") {
				return a, true
			}
		}
		return netip.Addr{}, false
	}
	full, reused := 0, 0
	ended := map[netip.Addr]bool{}
	for i := range 150 {
		if len(has) > 0 && rng.IntN(3) == 0 {
			addrs := slices.SortedFunc(maps.Keys(has), netip.Addr.Compare)
			gone := addrs[rng.IntN(len(addrs))]
			p.revoked = append(p.revoked, has[gone])
			if out := o.succeed(p); len(out) != 1 || out[has[gone]] != "revoked" {
				t.Fatalf("seed %d: out: %v, want %s", seed, out, has[gone])
			}
			ended[gone] = true
			delete(has, gone)
			continue
		}
		k := key.NewIdentity()
		a, _, err := o.Decide(k.Public(), o.enrol(k, fmt.Sprintf("db-%d", i), secret), o.w.Now)
		want, ok := free()
		switch {
		case !ok:
			full++
			if err == nil {
				t.Fatalf("seed %d: got %s where none is free", seed, a.IPv4)
			}
		case err != nil || a.IPv4 != want:
			t.Fatalf("seed %d, step %d: got %v, %v; want %s", seed, i, a, err, want)
		default:
			if ended[want] {
				reused++
			}
			has[want] = k.Public().NodeID()
		}
	}
	if full == 0 || reused == 0 {
		t.Errorf("seed %d: %d times full and %d addresses reused, want both", seed, full, reused)
	}
	if a := o.admit(pin, o.pinned(pin, "pin")); a.IPv4 != addr("10.0.0.3") {
		t.Errorf("the pin got %s, want 10.0.0.3", a.IPv4)
	}
}

func TestWhatEndsAnAdmission(t *testing.T) {
	alice, router, db := key.NewIdentity(), key.NewIdentity(), key.NewIdentity()
	fleet, secret := entry("fleet", []string{"db-*"}, "accounting", "db")
	pins := func() []leaf.Node {
		return []leaf.Node{
			{Name: "alice-laptop", Key: alice.Public(), User: "alice@acme.example", Address4: addr("100.64.0.9")},
			{Name: "router", Key: router.Public(), Tags: []string{"gw", "router"}},
		}
	}
	rotated, _ := entry("fleet", []string{"db-*"}, "accounting", "db")
	for _, c := range []struct {
		name   string
		change func(*policy)
		want   map[key.NodeID]string
	}{
		{"nothing", func(*policy) {}, nil},
		{"pin removed", func(p *policy) { p.pins = p.pins[1:] }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"all pins removed", func(p *policy) { p.pins = nil },
			map[key.NodeID]string{alice.Public().NodeID(): "pin", router.Public().NodeID(): "pin"}},
		{"pinned under another name", func(p *policy) { p.pins[0].Name = "alice-desktop" }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"another key pinned", func(p *policy) { p.pins[0].Key = key.NewIdentity().Public() }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"another user", func(p *policy) { p.pins[0].User = "bob@acme.example" }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"tags instead of the user", func(p *policy) { p.pins[0].User, p.pins[0].Tags = "", []string{"gw"} }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"a user instead of tags", func(p *policy) { p.pins[1].User, p.pins[1].Tags = "bob@acme.example", nil }, map[key.NodeID]string{router.Public().NodeID(): "pin"}},
		{"fewer tags", func(p *policy) { p.pins[1].Tags = []string{"gw"} }, map[key.NodeID]string{router.Public().NodeID(): "pin"}},
		{"more tags", func(p *policy) { p.pins[1].Tags = []string{"admin", "gw", "router"} }, map[key.NodeID]string{router.Public().NodeID(): "pin"}},
		{"another address", func(p *policy) { p.pins[0].Address4 = addr("100.64.0.10") }, map[key.NodeID]string{alice.Public().NodeID(): "pin"}},
		{"the leased address pinned", func(p *policy) { p.pins[1].Address4 = addr("100.64.0.1") }, nil},
		{"an address pinned where another is leased", func(p *policy) { p.pins[1].Address4 = addr("100.64.0.2") }, map[key.NodeID]string{router.Public().NodeID(): "pin"}},
		{"address no longer pinned", func(p *policy) { p.pins[0].Address4 = netip.Addr{} }, nil},
		{"entry removed", func(p *policy) { p.enrolments = nil }, map[key.NodeID]string{db.Public().NodeID(): "enrolment"}},
		{"entry renamed", func(p *policy) { p.enrolments[0].Name = "fleet2" }, map[key.NodeID]string{db.Public().NodeID(): "enrolment"}},
		{"entry's tags changed", func(p *policy) { p.enrolments[0].Tags = []string{"db"} }, map[key.NodeID]string{db.Public().NodeID(): "enrolment"}},
		{"entry's key rotated", func(p *policy) { p.enrolments[0] = rotated }, nil},
		{"entry's names changed", func(p *policy) { p.enrolments[0].Names = []string{"web-*"} }, nil},
		{"revoked", func(p *policy) { p.revoked = []key.NodeID{db.Public().NodeID()} }, map[key.NodeID]string{db.Public().NodeID(): "revoked"}},
		{"revoked, and its entry removed", func(p *policy) {
			p.revoked, p.enrolments = []key.NodeID{db.Public().NodeID()}, nil
		}, map[key.NodeID]string{db.Public().NodeID(): "revoked"}},
		{"another prefix", func(p *policy) { p.prefix = "10.0.0.0/8" }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy{pins: pins(), enrolments: []leaf.Enrolment{fleet}}
			o := newOffice(t, p)
			o.admit(alice, o.pinned(alice, "alice-laptop"))
			o.admit(router, o.pinned(router, "router"))
			o.admit(db, o.enrol(db, "db-1", secret))
			q := policy{pins: pins(), enrolments: []leaf.Enrolment{fleet}}
			c.change(&q)
			if out := o.succeed(q); !maps.Equal(out, c.want) {
				t.Errorf("out: %v, want %v", out, c.want)
			}
			if out := o.succeed(q); len(out) != 0 {
				t.Errorf("the next revision ends %v again", out)
			}
			live, head, n := o.Inventory(o.ended)
			if len(live) != 3-len(c.want) || head != o.Log.Head() || n != 3 {
				t.Errorf("%d live of %d, want %d of 3", len(live), n, 3-len(c.want))
			}
			for _, a := range live {
				if _, out := c.want[a.Identity.NodeID()]; out {
					t.Errorf("%s is out, and in the inventory", a.Name)
				}
			}
		})
	}
}

// A revision that was not decided leaves everything as it was.
func TestSucceedThatFails(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	o.crowd(1, "db-", secret)
	full := errors.New("no space left on device")
	err := o.Succeed(o.standing(policy{}), func(map[key.NodeID]string, key.Hash) (*Standing, error) { return nil, full })
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	o.crowd(1, "web-", secret)
}

// While a revision that removes the entry is decided, nodes join by it from all
// sides. Each is refused or put out; none is in and stays in.
func TestNobodySlipsIn(t *testing.T) {
	const joiners, each = 8, 12
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	type asked struct {
		key     key.IdentityPrivate
		request []byte
	}
	var requests [joiners][]asked
	for i := range requests {
		for n := range each {
			k := key.NewIdentity()
			requests[i] = append(requests[i], asked{k, o.enrol(k, fmt.Sprintf("db-%d-%d", i, n), secret)})
		}
	}
	half := make(chan struct{}, joiners*each)
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			for _, r := range requests[i] {
				_, _, err := o.Decide(r.key.Public(), r.request, o.w.Now)
				var refusal *Refusal
				if err != nil && !(errors.As(err, &refusal) && refusal.Reason == `the policy has no enrolment entry "fleet"`) {
					t.Errorf("got %v, want no entry", err)
				}
				half <- struct{}{}
			}
		})
	}
	for range joiners * each / 4 {
		<-half
	}
	out := o.succeed(policy{})
	wg.Wait()
	in := 0
	for _, e := range o.Log.Nodes() {
		in++
		if id := e.Admission.Identity.NodeID(); out[id] != "enrolment" || !o.ended.Has(id) {
			t.Errorf("%s was admitted and is not out", e.Admission.Name)
		}
		if e.Admission.Decided.Seq != 100 {
			t.Errorf("%s was admitted under %s, want (1, 100)", e.Admission.Name, e.Admission.Decided)
		}
	}
	if in != len(out) || in < joiners*each/4 {
		t.Errorf("%d admitted, %d out, want the same and at least %d", in, len(out), joiners*each/4)
	}
}

// A pattern is what a regular expression says that has nothing but ".*".
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"ledger-*", "ledger-1", true}, {"ledger-*", "ledger-", true}, {"ledger-*", "ledger", false},
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"a*a", "a", false}, {"a*b*c", "a-b-b-c", true},
		{"*-db", "eu-db", true}, {"*-db", "eu-db2", false}, {"d[ab]", "da", false}, {"d[ab]", "d[ab]", true},
		{"d?", "db", false}, {"d?", "d?", true}, {`d\*`, "d*", false}, {`d\*`, `d\x`, true}, {"[", "[", true},
	} {
		if got := matches([]string{"other", c.pattern}, c.name); got != c.want {
			t.Errorf("%q matches %q: got %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 2))
	random := func(letters string) string {
		b := make([]byte, rng.IntN(9))
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		return string(b)
	}
	hits := 0
	for range 20_000 {
		p, name := random(`ab-***?[]\`), random(`aabb--?[`)
		var re strings.Builder
		for _, part := range strings.SplitAfter(p, "*") {
			literal, star := strings.CutSuffix(part, "*")
			re.WriteString(regexp.QuoteMeta(literal))
			if star {
				re.WriteString(".*")
			}
		}
		want := regexp.MustCompile("^" + re.String() + "$").MatchString(name)
		if got := matches([]string{p}, name); got != want {
			t.Fatalf("seed %d: %q matches %q: got %v, want %v", seed, p, name, got, want)
		}
		if want {
			hits++
		}
	}
	if hits < 1000 {
		t.Errorf("seed %d: %d matches, want a thousand", seed, hits)
	}
}

// Admissions of nodes that ended are in the log and not among the newest.
func TestAfterGivesTheLogInOrder(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	o.crowd(4, "db-", secret)
	for n, want := range map[int64]int{-1: 0, 0: 4, 1: 3, 3: 1, 4: 0, 5: 0, 1 << 62: 0} {
		got := o.After(n)
		if len(got) != want {
			t.Errorf("after %d: %d admissions, want %d", n, len(got), want)
		}
		for i, e := range got {
			if e.Admission.Log != n+1+int64(i) {
				t.Errorf("after %d: number %d, want %d", n, e.Admission.Log, n+1+int64(i))
			}
		}
	}
}

func TestStandingOfLeavesThatCannotBeRead(t *testing.T) {
	for _, name := range []string{leaf.NameNetwork, "node/a", "enrolment/a"} {
		_, err := NewStanding(trust.Position{}, []leaf.Leaf{{Name: name, Data: []byte(`{"surprise":1}`)}}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), "leaf "+name) {
			t.Errorf("%s: got %v, want it named", name, err)
		}
	}
}
