package acl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func sel(s string) Selector {
	v, err := ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return v
}

func sels(s string) (out []Selector) {
	for _, f := range strings.Fields(s) {
		out = append(out, sel(f))
	}
	return out
}

func ports(s string) (out []Ports) {
	for _, f := range strings.Fields(s) {
		p, err := ParsePorts(f)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

func person(name, subject string, groups ...Membership) *Subject {
	return &Subject{Name: name + "-1", User: &User{"https://login.example", subject, name + "@acme.example"}, Groups: groups}
}

func server(name string, tags string, groups ...Membership) *Subject {
	return &Subject{Name: name, Tags: strings.Fields(tags), Groups: groups}
}

func ending(s *Subject, at time.Time) *Subject {
	c := *s
	c.Expires = at
	return &c
}

var (
	alice    = person("alice", "1", Membership{Group: "accounting"}, Membership{Group: "temps", Until: noon.Add(time.Hour)})
	phone    = func() *Subject { s := person("alice", "1"); s.Name = "phone"; return s }()
	bob      = person("bob", "2", Membership{Group: "engineering"})
	eve      = &Subject{Name: "eve-1", User: &User{"https://other.example", "1", "eve@acme.example"}}
	pinned   = &Subject{Name: "pinned", User: &User{Email: "alice@acme.example"}}
	pinned2  = &Subject{Name: "pinned-2", User: &User{Email: "alice@acme.example"}}
	ledger   = server("ledger-1", "accounting backup", Membership{Group: "servers"})
	build    = server("build", "ci")
	stranger = &Subject{Name: "stranger", Groups: []Membership{{Group: "accounting"}}}
)

// ask is a request between nodes themselves.
func ask(from, to *Subject, target Target, at time.Time) Request {
	return Request{From: from, To: to, Target: target, At: at}
}

func tcp(port uint16) Target { return Target{Proto: TCP, Port: port} }

var (
	ping4 = Target{Proto: ICMP, Echo: true}
	ping6 = Target{Proto: ICMPv6, Echo: true}
)

// Verdicts under the rule they exercise.
func TestJudge(t *testing.T) {
	type flow struct {
		allowed  bool
		from, to *Subject
		target   Target
		at       time.Time
	}
	for _, c := range []struct {
		to    string
		grant Grant
		flows []flow
	}{
		{"tag:accounting", Grant{From: sels("group:accounting"), Allow: ports("tcp/443 icmp")}, []flow{
			{true, alice, ledger, tcp(443), noon},
			{true, alice, ledger, ping4, noon},
			{true, alice, ledger, ping6, noon},
			{false, alice, ledger, tcp(444), noon},
			{false, alice, ledger, Target{Proto: UDP, Port: 443}, noon},
			{false, alice, ledger, Target{Proto: ICMP}, noon},
			{false, alice, ledger, Target{Proto: TCP, Echo: true}, noon},
			{false, alice, ledger, Target{}, noon},
			{false, bob, ledger, tcp(443), noon},
			{false, ledger, alice, tcp(443), noon}, // rules have a direction
			{false, alice, build, tcp(443), noon},
			{false, alice, phone, tcp(443), noon},
			{false, ledger, ledger, tcp(443), noon},
			{false, stranger, ledger, tcp(443), noon}, // a group without a principal is nobody's
		}},
		// A port rule does not open ping, and ping opens no other ICMP.
		{"tag:accounting", Grant{From: sels("*"), Allow: ports("tcp/1-65535")}, []flow{
			{true, alice, ledger, tcp(1), noon}, {true, alice, ledger, tcp(65535), noon}, {false, alice, ledger, ping4, noon}, {false, alice, ledger, ping6, noon},
		}},
		{"tag:accounting", Grant{From: sels("*"), Allow: ports("udp/8000-8100")}, []flow{
			{false, alice, ledger, Target{Proto: UDP, Port: 7999}, noon}, {true, alice, ledger, Target{Proto: UDP, Port: 8000}, noon},
			{true, alice, ledger, Target{Proto: UDP, Port: 8100}, noon}, {false, alice, ledger, Target{Proto: UDP, Port: 8101}, noon}, {false, alice, ledger, tcp(8000), noon},
		}},
		{"tag:accounting", Grant{From: sels("*"), Allow: ports("proto/47")}, []flow{
			{true, alice, ledger, Target{Proto: 47}, noon}, {false, alice, ledger, Target{Proto: 46}, noon}, {false, alice, ledger, tcp(47), noon},
		}},
		{"tag:accounting", Grant{From: sels("*"), Allow: ports("proto/1")}, []flow{
			{true, alice, ledger, ping4, noon}, {true, alice, ledger, Target{Proto: ICMP}, noon}, {false, alice, ledger, ping6, noon},
		}},
		{"tag:accounting", Grant{From: sels("*"), Allow: ports("*")}, []flow{
			{true, alice, ledger, tcp(0), noon}, {true, alice, ledger, Target{Proto: 255}, noon}, {true, alice, ledger, ping6, noon}, {false, stranger, ledger, tcp(1), noon},
		}},
		// Nothing is allowed by an empty list.
		{"*", Grant{Allow: ports("*")}, []flow{{false, alice, ledger, tcp(1), noon}}},
		{"*", Grant{From: sels("*")}, []flow{{false, alice, ledger, tcp(1), noon}}},
		// Until: before it, and no longer at it.
		{"*", Grant{From: sels("*"), Allow: ports("*"), Until: noon}, []flow{
			{true, alice, ledger, tcp(1), noon.Add(-1)}, {false, alice, ledger, tcp(1), noon}, {false, alice, ledger, tcp(1), noon.Add(time.Hour)},
		}},
		{"*", Grant{From: sels("group:temps"), Allow: ports("*")}, []flow{
			{true, alice, ledger, tcp(1), noon.Add(time.Hour - 1)}, {false, alice, ledger, tcp(1), noon.Add(time.Hour)},
		}},
		// A session that has ended is nobody, on either end.
		{"*", Grant{From: sels("*"), Allow: ports("*")}, []flow{
			{true, ending(alice, noon.Add(1)), ledger, tcp(1), noon}, {false, ending(alice, noon), ledger, tcp(1), noon},
			{true, alice, ending(ledger, noon.Add(1)), tcp(1), noon}, {false, alice, ending(ledger, noon), tcp(1), noon}, {false, alice, stranger, tcp(1), noon},
		}},
		// Except subtracts from the source, ToExcept from the destination.
		{"*", Grant{From: sels("*"), Except: sels("group:engineering tag:ci"), Allow: ports("*")}, []flow{
			{true, alice, ledger, tcp(1), noon}, {false, bob, ledger, tcp(1), noon}, {false, build, ledger, tcp(1), noon}, {true, alice, build, tcp(1), noon},
		}},
		{"autogroup:tagged", Grant{From: sels("*"), ToExcept: sels("tag:backup"), Allow: ports("*")}, []flow{
			{true, alice, build, tcp(1), noon}, {false, alice, ledger, tcp(1), noon}, {true, ledger, build, tcp(1), noon},
		}},
		{"*", Grant{From: sels("group:accounting"), Except: sels("group:temps"), Allow: ports("*")}, []flow{
			{false, alice, ledger, tcp(1), noon}, {true, alice, ledger, tcp(1), noon.Add(time.Hour)}, // what excepted her has ended
		}},
		// autogroup:self compares issuer and subject, never e-mail addresses.
		{"autogroup:member", Grant{From: sels("autogroup:self"), Allow: ports("*")}, []flow{
			{true, alice, phone, tcp(1), noon}, {true, phone, alice, tcp(1), noon}, {false, alice, bob, tcp(1), noon},
			{false, alice, eve, tcp(1), noon}, {false, pinned, pinned2, tcp(1), noon}, {false, alice, pinned, tcp(1), noon}, {false, ledger, alice, tcp(1), noon},
		}},
		{"autogroup:self", Grant{From: sels("autogroup:member"), Allow: ports("*")}, []flow{
			{true, alice, phone, tcp(1), noon}, {false, alice, bob, tcp(1), noon}, {false, alice, ledger, tcp(1), noon},
		}},
		{"*", Grant{From: sels("autogroup:self"), Allow: ports("*")}, []flow{
			{false, ledger, ledger, tcp(1), noon}, {false, ending(phone, noon), alice, tcp(1), noon}, {false, phone, ending(alice, noon), tcp(1), noon},
		}},
		{"autogroup:tagged", Grant{From: sels("autogroup:member"), Allow: ports("*")}, []flow{
			{true, alice, ledger, tcp(1), noon}, {false, build, ledger, tcp(1), noon}, {false, alice, phone, tcp(1), noon},
		}},
		{"node:ledger-1", Grant{From: sels("node:build alice@acme.example"), Allow: ports("*")}, []flow{
			{true, build, ledger, tcp(1), noon}, {true, alice, ledger, tcp(1), noon}, {true, phone, ledger, tcp(1), noon}, {true, pinned, ledger, tcp(1), noon},
			{false, bob, ledger, tcp(1), noon}, {false, build, alice, tcp(1), noon},
		}},
		{"group:servers", Grant{From: sels("*"), Allow: ports("*")}, []flow{
			{true, alice, ledger, tcp(1), noon}, {false, alice, build, tcp(1), noon},
		}},
		{"bob@acme.example", Grant{From: sels("*"), Allow: ports("*")}, []flow{
			{true, alice, bob, tcp(1), noon}, {false, alice, phone, tcp(1), noon},
		}},
	} {
		c.grant.Rule = "r"
		for _, f := range c.flows {
			v := Judge([]Inbound{{sel(c.to), []Grant{c.grant}}}, ask(f.from, f.to, f.target, f.at))
			if v.Allowed != f.allowed {
				t.Errorf("%+v to %s: %s -> %s %s at %s: got %v, want %v", c.grant, c.to, f.from.Name, f.to.Name, f.target, f.at.Format(time.TimeOnly), v.Allowed, f.allowed)
			}
			if !v.Allowed && v != (Verdict{}) || v.Allowed && (v.Rule != "r" || v.To != sel(c.to)) {
				t.Errorf("%s -> %s: verdict %+v", f.from.Name, f.to.Name, v)
			}
		}
	}
	if v := Judge(nil, ask(alice, ledger, tcp(1), noon)); v.Allowed {
		t.Error("no rules allow")
	}
	if v := Judge([]Inbound{{Selector{}, []Grant{{From: sels("*"), Allow: ports("*")}}}}, ask(alice, ledger, tcp(1), noon)); v.Allowed {
		t.Error("an inbound about nobody allows")
	}
}

// A verdict names the grant that lasts longest, then by rule, then by destination.
func TestVerdict(t *testing.T) {
	grant := func(rule string, until time.Time) Grant {
		return Grant{Rule: rule, From: sels("*"), Allow: ports("*"), Until: until}
	}
	soon, late := noon.Add(time.Minute), noon.Add(time.Hour)
	for name, c := range map[string]struct {
		inbound []Inbound
		from    *Subject
		want    Verdict
	}{
		"the longest":   {[]Inbound{{sel("*"), []Grant{grant("a", soon), grant("b", late)}}}, bob, Verdict{true, "b", sel("*"), late}},
		"without end":   {[]Inbound{{sel("*"), []Grant{grant("a", late), grant("b", time.Time{})}}}, bob, Verdict{true, "b", sel("*"), time.Time{}}},
		"first by rule": {[]Inbound{{sel("*"), []Grant{grant("b", late), grant("a", late)}}}, bob, Verdict{true, "a", sel("*"), late}},
		"first by destination": {[]Inbound{{sel("tag:backup"), []Grant{grant("a", late)}}, {sel("tag:accounting"), []Grant{grant("a", late)}}}, bob,
			Verdict{true, "a", sel("tag:accounting"), late}},
		"the session's end":       {[]Inbound{{sel("*"), []Grant{grant("a", late)}}}, ending(bob, soon), Verdict{true, "a", sel("*"), soon}},
		"the membership's end":    {[]Inbound{{sel("*"), []Grant{{Rule: "a", From: sels("group:temps"), Allow: ports("*")}}}}, alice, Verdict{true, "a", sel("*"), late}},
		"the longest alternative": {[]Inbound{{sel("*"), []Grant{{Rule: "a", From: sels("group:temps group:accounting"), Allow: ports("*")}}}}, alice, Verdict{true, "a", sel("*"), time.Time{}}},
		"refused":                 {[]Inbound{{sel("*"), []Grant{grant("a", noon)}}}, alice, Verdict{}},
	} {
		if got := Judge(c.inbound, ask(c.from, ledger, tcp(1), noon)); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestNextEnd(t *testing.T) {
	at := func(n time.Duration) time.Time { return noon.Add(n) }
	in := []Inbound{{sel("*"), []Grant{{Until: at(5)}, {Until: at(-1)}, {}}}}
	subjects := []*Subject{ending(alice, at(3)), {Groups: []Membership{{Until: at(2)}, {Until: at(0)}, {}}}}
	for from, want := range map[time.Duration]time.Time{-2: at(-1), -1: at(0), 0: at(2), 1: at(2), 2: at(3), 3: at(5), 5: at(time.Hour), time.Hour: {}} {
		if got := NextEnd(in, subjects, at(from)); !got.Equal(want) {
			t.Errorf("after %d ns: got %s, want %s", from, got, want)
		}
	}
	if got := NextEnd(nil, nil, noon); !got.IsZero() {
		t.Errorf("of nothing: got %s", got)
	}
}

// drawTime draws one of few instants, so that they meet; zero is no limit.
func drawTime(t *rapid.T, what string) time.Time {
	n := rapid.IntRange(-4, 5).Draw(t, what)
	if n > 3 {
		return time.Time{}
	}
	return noon.Add(time.Duration(n) * time.Second)
}

func drawSubject(t *rapid.T) *Subject {
	s := &Subject{Name: rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "name"), Expires: drawTime(t, "expires")}
	switch rapid.IntRange(0, 4).Draw(t, "who") {
	case 0:
	case 1, 2:
		s.Tags = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 2, rapid.ID[string]).Draw(t, "tags")
	default:
		s.User = &User{
			Issuer:  rapid.SampledFrom([]string{"i", "j", ""}).Draw(t, "issuer"),
			Subject: rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "subject"),
			Email:   rapid.SampledFrom([]string{"x@d", "y@d"}).Draw(t, "email"),
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "groups") {
		s.Groups = append(s.Groups, Membership{rapid.SampledFrom([]string{"g", "h"}).Draw(t, "group"), drawTime(t, "member until")})
	}
	return s
}

func drawSelectors(t *rapid.T, low, high int) []Selector {
	texts := []string{"*", "x@d", "y@d", "group:g", "group:h", "tag:a", "tag:b", "node:n1", "node:n2", "autogroup:member", "autogroup:tagged", "autogroup:self"}
	return sels(strings.Join(rapid.SliceOfN(rapid.SampledFrom(texts), low, high).Draw(t, "selectors"), " "))
}

func drawInbound(t *rapid.T) (out []Inbound) {
	texts := []string{"*", "icmp", "tcp/1", "tcp/1-3", "udp/2-4", "proto/6", "proto/58", "proto/47"}
	for range rapid.IntRange(0, 3).Draw(t, "inbound") {
		in := Inbound{To: drawSelectors(t, 1, 1)[0]}
		for range rapid.IntRange(0, 3).Draw(t, "grants") {
			in.Grants = append(in.Grants, Grant{
				Rule: rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(t, "rule"), From: drawSelectors(t, 0, 3),
				Except: drawSelectors(t, 0, 1), ToExcept: drawSelectors(t, 0, 1),
				Allow: ports(strings.Join(rapid.SliceOfN(rapid.SampledFrom(texts), 0, 2).Draw(t, "ports"), " ")), Until: drawTime(t, "until"),
			})
		}
		out = append(out, in)
	}
	return out
}

func drawTarget(t *rapid.T) Target {
	return rapid.SampledFrom([]Target{tcp(1), tcp(2), tcp(4), {Proto: UDP, Port: 2}, {Proto: UDP, Port: 5}, ping4, ping6, {Proto: ICMP}, {Proto: ICMPv6}, {Proto: 47}, {}}).Draw(t, "target")
}

// The oracle answers by writing sets of texts down: everything that a node is
// called at an instant, and everything that a target is called. It shares no
// code with the package but the texts.

func alive(limit time.Time, at time.Time) bool {
	return limit.IsZero() || limit.UnixNano() > at.UnixNano()
}

func namesOf(s, other *Subject, at time.Time) map[string]bool {
	names := map[string]bool{}
	person := s.User != nil
	if !person && len(s.Tags) == 0 || !alive(s.Expires, at) {
		return names
	}
	names["*"], names["node:"+s.Name] = true, true
	for _, m := range s.Groups {
		if alive(m.Until, at) {
			names["group:"+m.Group] = true
		}
	}
	for _, tag := range s.Tags {
		names["tag:"+tag], names["autogroup:tagged"] = true, true
	}
	if person {
		names[s.User.Email], names["autogroup:member"] = true, true
		if other.User != nil && alive(other.Expires, at) && s.User.Subject != "" && s.User.Issuer != "" && *s.User == (User{other.User.Issuer, other.User.Subject, s.User.Email}) {
			names["autogroup:self"] = true
		}
	}
	return names
}

func callsFor(p string, target Target) bool {
	kind, rest, _ := strings.Cut(p, "/")
	switch {
	case p == "*":
		return true
	case p == "icmp":
		return target == ping4 || target == ping6
	case kind == "proto":
		return rest == strconv.Itoa(int(target.Proto))
	}
	first, last, ok := strings.Cut(rest, "-")
	if !ok {
		last = first
	}
	lo, _ := strconv.Atoi(first)
	hi, _ := strconv.Atoi(last)
	for port := lo; port <= hi; port++ {
		if (Target{Proto: map[string]Proto{"tcp": 6, "udp": 17, "sctp": 132}[kind], Port: uint16(port)}) == target {
			return true
		}
	}
	return false
}

func any1[T fmt.Stringer](list []T, f func(string) bool) bool {
	for _, v := range list {
		if f(v.String()) {
			return true
		}
	}
	return false
}

// oracle is the rules that allow the request, as "destination rule".
func oracle(inbound []Inbound, r Request) (rules []string) {
	from, to := namesOf(r.From, r.To, r.At), namesOf(r.To, r.From, r.At)
	isFrom, isTo := func(s string) bool { return from[s] }, func(s string) bool { return to[s] }
	for _, in := range inbound {
		for _, g := range in.Grants {
			if to[in.To.String()] && any1(g.From, isFrom) && !any1(g.Except, isFrom) && !any1(g.ToExcept, isTo) &&
				any1(g.Allow, func(p string) bool { return callsFor(p, r.Target) }) && alive(g.Until, r.At) {
				rules = append(rules, in.To.String()+" "+g.Rule)
			}
		}
	}
	return rules
}

func TestJudgeIsTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inbound := drawInbound(t)
		r := ask(drawSubject(t), drawSubject(t), drawTarget(t), noon.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "at"))*time.Second))
		v, want := Judge(inbound, r), oracle(inbound, r)
		if v.Allowed != (len(want) > 0) {
			t.Fatalf("got %+v, the oracle says %v\nfrom %+v\nto %+v", v, want, r.From, r.To)
		}
		if v.Allowed && !slices.Contains(want, v.To.String()+" "+v.Rule) {
			t.Errorf("the verdict names %s %s, which does not allow; %v do", v.To, v.Rule, want)
		}
	})
}

// Until the verdict's end every earlier answer stands; at it this grant is over,
// and where nothing is excepted so is access.
func TestVerdictUntil(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inbound := drawInbound(t)
		r := ask(drawSubject(t), drawSubject(t), drawTarget(t), noon.Add(time.Duration(rapid.IntRange(-5, 3).Draw(t, "at"))*time.Second))
		v := Judge(inbound, r)
		if !v.Allowed {
			return
		}
		at := func(when time.Time) bool {
			q := r
			q.At = when
			return len(oracle(inbound, q)) > 0
		}
		for n := range 12 {
			when := r.At.Add(time.Duration(n) * time.Second)
			if (v.Until.IsZero() || when.Before(v.Until)) && !at(when) {
				t.Errorf("allowed at %s until %s, and refused at %s", r.At, v.Until, when)
			}
		}
		excepts := slices.ContainsFunc(inbound, func(in Inbound) bool {
			return slices.ContainsFunc(in.Grants, func(g Grant) bool { return len(g.Except)+len(g.ToExcept) > 0 })
		})
		if !v.Until.IsZero() && !excepts && at(v.Until) {
			t.Errorf("allowed until %s, and still at that time", v.Until)
		}
	})
}

// Between an instant and the next end nothing changes.
func TestNothingChangesBeforeNextEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inbound := drawInbound(t)
		r := ask(drawSubject(t), drawSubject(t), drawTarget(t), noon.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "at"))*time.Second))
		end := NextEnd(inbound, []*Subject{r.From, r.To}, r.At)
		if !end.IsZero() && !end.After(r.At) {
			t.Fatalf("next end %s is not after %s", end, r.At)
		}
		before := Judge(inbound, r)
		for n := range 24 {
			q := r
			q.At = r.At.Add(time.Duration(n) * time.Second / 2)
			if !end.IsZero() && !q.At.Before(end) {
				break
			}
			if d := cmp.Diff(before, Judge(inbound, q)); d != "" {
				t.Errorf("at %s, next end %s, the verdict at %s differs:\n%s", r.At, end, q.At, d)
			}
		}
	})
}
