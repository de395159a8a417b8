package node_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/node"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/relaytest"
)

// A revocation is measured on a mesh of this shape, all in this process and over
// loopback:
//
//	  client ─ proxy ─► bob's agent ═ relay ═► ledger-1's agent ─ forward ─► server
//	                        ▲                      ▲
//	publisher ─► coordinator ┴──────────────────────┘
//
// Bob's client and the server answer each other without a pause. A revision that
// revokes it is published; the server's read fails when the filter of ledger-1
// has dropped the flow and reset its local end, the client's when the reset has
// crossed the mesh. Both come after the drop: the filter sends resets only once
// no packet is judged by the older rules any more.
type revocation struct {
	b         *testing.B
	world     *netmaptest.World
	coord     *coordtest.Coordinator
	publisher func(*netmaptest.Revision)
	relays    []leaf.Relay
	agents    []*localapi.Client
	proxy     string
	ledger    netip.Addr
	cut       chan time.Time // when the server's end of a connection failed
}

// policy is one of a hundred leaves. Bob reaches the ledger's port 80 by it, or
// does not, because the grant is gone or because his membership is. He always
// reaches its port 22.
func (r *revocation) policy(bobReaches, byMembership bool) netmaptest.Policy {
	p := netmaptest.Policy{
		Relays: r.relays,
		Groups: map[string][]string{"accounting": {"alice@acme.example"}, "staff": {"bob@acme.example"}},
		Rules:  []netmaptest.Rule{{Name: "ssh", From: "group:staff", To: "tag:accounting", Allow: "tcp/22"}},
	}
	if bobReaches || byMembership {
		p.Rules = append(p.Rules, netmaptest.Rule{Name: "web", From: "group:accounting", To: "tag:accounting", Allow: "tcp/80"})
	}
	if bobReaches || !byMembership {
		p.Groups["accounting"] = append(p.Groups["accounting"], "bob@acme.example")
	}
	for i := range 60 {
		p.Groups["staff"] = append(p.Groups["staff"], fmt.Sprintf("user-%d@acme.example", i))
	}
	for i := range 35 {
		p.Rules = append(p.Rules, netmaptest.Rule{Name: fmt.Sprintf("rule-%d", i), From: "group:staff", To: fmt.Sprintf("tag:service-%d", i), Allow: "tcp/443"})
	}
	return p
}

func newRevocation(b *testing.B) *revocation {
	r := &revocation{b: b, world: netmaptest.New(b, time.Now()), cut: make(chan time.Time, 1)}
	relay := relaytest.New(b)
	relay.AdmitBy(func(id key.IdentityPublic, doc []byte) (time.Time, error) {
		a, err := papers.OpenAdmission(doc, r.world.Root)
		if err == nil && !a.Identity.Equal(id) {
			err = errors.New("papers of another node")
		}
		return time.Now().Add(time.Hour), err
	})
	r.relays = []leaf.Relay{{Name: "local", Addr: relay.Addr(), Key: relay.Key()}}
	r.coord = coordtest.Start(b, r.world)
	api := r.coord.Publisher() // one connection for all, as sync has
	r.publisher = func(rev *netmaptest.Revision) {
		ctx, cancel := context.WithTimeout(b.Context(), coordtest.Timeout)
		defer cancel()
		if _, err := api.Publish(ctx, connect.NewRequest(r.coord.Request(rev))); err != nil {
			b.Fatalf("publish %s: %v", rev.Manifest.Position, err)
		}
	}
	r.publisher(r.world.Publish(r.policy(true, true)))
	r.coord.DecideJoins(func(j *papers.Join, _ *papers.Proof) (papers.Admission, error) {
		if j.Name == "bob" {
			return papers.Admission{User: &acl.User{Email: "bob@acme.example", Issuer: "git", Subject: "bob@acme.example"}}, nil
		}
		return papers.Admission{Tags: []string{"accounting"}}, nil
	})
	server := r.serve()
	ledger := r.start("ledger-1", node.Forward{Port: 80, Target: server})
	bob := r.start("bob")
	r.coord.WaitEnforced(2)
	r.agents = []*localapi.Client{ledger, bob}
	r.ledger = r.status(ledger, func(s *localapi.Status) bool { return len(s.Addrs) > 0 }).Addrs[0]
	r.proxy = r.status(bob, func(s *localapi.Status) bool { return s.Proxy != "" && len(s.Peers) == 1 }).Proxy
	return r
}

// start runs an agent until the benchmark ends.
func (r *revocation) start(name string, forwards ...node.Forward) *localapi.Client {
	dir := r.b.TempDir()
	socket := filepath.Join(dir, "api")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- node.Run(ctx, node.Config{
			Dir: filepath.Join(dir, "state"), Socket: socket, Join: r.coord.JoinString(), Name: name,
			Proxy: "127.0.0.1:0", Forwards: forwards, Version: "bench", Log: slog.New(slog.DiscardHandler),
		})
	}()
	r.b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.b.Errorf("agent %s: %v", name, err)
		}
	})
	return localapi.Dial(socket)
}

// status waits for a status of an agent that has begun to serve its local API.
func (r *revocation) status(c *localapi.Client, ok func(*localapi.Status) bool) *localapi.Status {
	r.b.Helper()
	ctx, cancel := context.WithTimeout(r.b.Context(), coordtest.Timeout)
	defer cancel()
	after := int64(-1)
	for {
		s, err := c.Status(ctx, after)
		if err != nil {
			r.b.Fatal(err)
		}
		if ok(s) {
			return s
		}
		after = s.Version
	}
}

// serve answers every byte with itself, and says when a connection fails.
func (r *revocation) serve() netip.AddrPort {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.b.Fatal(err)
	}
	r.b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
				r.cut <- time.Now()
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// connect opens a connection from Bob's machine to the ledger, through the mesh.
func (r *revocation) connect() net.Conn {
	r.b.Helper()
	c, err := net.Dial("tcp", r.proxy)
	if err != nil {
		r.b.Fatal(err)
	}
	to := net.JoinHostPort(r.ledger.String(), "80")
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	resp, err := http.ReadResponse(bufio.NewReaderSize(io.LimitReader(c, 4096), 16), nil)
	if err != nil {
		r.b.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		r.b.Fatalf("connect to %s: %s", to, resp.Status)
	}
	return c
}

// stream exchanges messages until the connection fails, and gives when it did.
// After the first answer it closes flows.
func stream(c net.Conn, flows chan<- struct{}, failed chan<- time.Time) {
	defer c.Close()
	buf := make([]byte, 64)
	for n := 0; ; n++ {
		if _, err := c.Write(buf); err != nil {
			break
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			break
		}
		if n == 0 {
			close(flows)
		}
	}
	failed <- time.Now()
}

// once grants, streams, revokes, and gives how long after the publication was
// accepted, and after it was handed in, each end's connection failed.
func (r *revocation) once(byMembership bool) (destination, source, call time.Duration) {
	r.b.Helper()
	granting := r.world.Publish(r.policy(true, byMembership))
	r.publisher(granting)
	// Not by acknowledgements: the coordinator takes two a second of a node.
	for _, a := range r.agents {
		r.status(a, func(s *localapi.Status) bool { return s.Seq == granting.Manifest.Seq })
	}
	flows, failed := make(chan struct{}), make(chan time.Time, 1)
	go stream(r.connect(), flows, failed)
	limit := time.NewTimer(coordtest.Timeout)
	defer limit.Stop()
	wait := func(what string, c <-chan time.Time) time.Time {
		select {
		case at := <-c:
			return at
		case <-limit.C:
			r.b.Fatalf("%s is not cut", what)
			panic("unreachable")
		}
	}
	select {
	case <-flows:
	case at := <-failed:
		r.b.Fatalf("the connection failed at %v, before it was revoked", at)
	case <-limit.C:
		r.b.Fatal("nothing flows")
	}
	revoking := r.world.Publish(r.policy(false, byMembership))
	select {
	case <-failed:
		r.b.Fatal("the connection failed before it was revoked")
	default:
	}
	began := time.Now()
	r.publisher(revoking)
	accepted := time.Now()
	at := wait("the server's end", r.cut)
	// An agent may be faster than the answer to the publisher.
	destination, source = max(0, at.Sub(accepted)), max(0, wait("the client's end", failed).Sub(accepted))
	return destination, source, at.Sub(began)
}

// BenchmarkRevoke measures from a publication's being accepted to the cut of a
// live flow that it revokes. Its time per operation is from handing the
// publication in to the cut at the destination.
func BenchmarkRevoke(b *testing.B) {
	for _, run := range []struct {
		name         string
		byMembership bool
	}{{"by=grant", false}, {"by=membership", true}} {
		b.Run(run.name, func(b *testing.B) {
			r := newRevocation(b)
			r.once(run.byMembership) // handshakes and caches are not what is measured
			var destination, source, whole []time.Duration
			var total time.Duration
			for b.Loop() {
				d, s, call := r.once(run.byMembership)
				destination, source, whole = append(destination, d), append(source, s), append(whole, call)
				total += call
			}
			report(b, destination, "destination")
			report(b, source, "source")
			report(b, whole, "call")
			b.ReportMetric(float64(total.Nanoseconds())/float64(len(whole)), "ns/op")
		})
	}
}

// report reports the median and the 99th percentile in milliseconds.
func report(b *testing.B, d []time.Duration, what string) {
	slices.Sort(d)
	ms := func(q float64) float64 {
		i := min(len(d)-1, int(q*float64(len(d))))
		return float64(d[i].Nanoseconds()) / 1e6
	}
	for q, name := range map[float64]string{0.5: "p50", 0.99: "p99"} {
		b.ReportMetric(ms(q), strings.Join([]string{what, name, "ms"}, "-"))
	}
}
