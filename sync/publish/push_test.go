package publish

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A courier is a coordinator that answers as the test says, and keeps what it was
// given.
type courier struct {
	wireconnect.UnimplementedPublisherHandler
	mu     sync.Mutex // guards the fields below
	newest *wire.NewestResponse
	fails  error // of Newest
	refuse error // of Publish
	got    []*wire.PublishRequest
	caller key.IdentityPublic
}

func (c *courier) Newest(context.Context, *connect.Request[wire.NewestRequest]) (*connect.Response[wire.NewestResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails != nil {
		return nil, c.fails
	}
	return connect.NewResponse(c.newest), nil
}

func (c *courier) Publish(_ context.Context, req *connect.Request[wire.PublishRequest]) (*connect.Response[wire.PublishResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, proto.CloneOf(req.Msg))
	return connect.NewResponse(&wire.PublishResponse{}), c.refuse
}

// serve runs the courier on loopback and connects to it as a publisher.
func (c *courier) serve(t *testing.T, as trust.SigningKey) *Coordinator {
	t.Helper()
	id := key.NewIdentity()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(wireconnect.NewPublisherHandler(c))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.caller, _ = tlskey.PeerKey(*r.TLS)
		c.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(tls.NewListener(ln, tlskey.ServerConfig(id))) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return dial(t, leaf.Coordinator{Addr: ln.Addr().String(), Pin: id.Public()}, as)
}

func dial(t *testing.T, c leaf.Coordinator, as trust.SigningKey) *Coordinator {
	t.Helper()
	conn, err := Dial(c, as)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.HTTP.CloseIdleConnections)
	return conn
}

func names(leaves []*wire.Leaf) (out []string) {
	for _, l := range leaves {
		out = append(out, l.GetName())
	}
	return out
}

func TestPushSendsWhatLacks(t *testing.T) {
	w := netmaptest.New(t, noon)
	p := open(t, t.TempDir(), w)
	r1 := decide(t, p, compiled(t, 1, "alice:a bob:b"), noon)
	m1, _ := notes(t, p, r1)
	r2 := decide(t, p, compiled(t, 2, "alice:a carol:a"), noon.Add(time.Minute))
	m2, _ := notes(t, p, r2)
	r3 := decide(t, p, compiled(t, 3, "alice:a carol:b dave:x"), noon.Add(time.Hour))
	m3, e3 := notes(t, p, r3)
	everything := []string{"network", "principal/alice@acme.example", "principal/carol@acme.example", "principal/dave@acme.example", "relays"}
	changed := []string{"principal/carol@acme.example", "principal/dave@acme.example"}
	h1, h2, h3 := r1.Manifest.Hash(), r2.Manifest.Hash(), r3.Manifest.Hash()

	for _, c := range []struct {
		name   string
		newest *wire.NewestResponse
		fails  error
		leaves []string // nil: nothing is published
		prev   []byte
	}{
		{"no network yet", nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("no root document")), everything, nil},
		{"no revision yet", &wire.NewestResponse{RootVersion: 1, Log: 3}, nil, everything, nil},
		{"the one before", &wire.NewestResponse{RootVersion: 1, Log: 3, Manifest: []byte(m2)}, nil, changed, h2[:]},
		{"the one before, and lost leaves", &wire.NewestResponse{RootVersion: 1, Log: 3, Manifest: []byte(m2), Lost: []string{"network"}}, nil, everything, h2[:]},
		{"an older one", &wire.NewestResponse{RootVersion: 1, Log: 3, Manifest: []byte(m1)}, nil, everything, h1[:]},
		{"this one", &wire.NewestResponse{RootVersion: 1, Log: 3, Manifest: []byte(m3)}, nil, nil, nil},
		{"this one, and lost leaves", &wire.NewestResponse{RootVersion: 1, Log: 3, Manifest: []byte(m3), Lost: []string{"network"}}, nil, everything, h3[:]},
		{"this one, under an older root", &wire.NewestResponse{RootVersion: 0, Log: 3, Manifest: []byte(m3)}, nil, everything, h3[:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			there := &courier{newest: c.newest, fails: c.fails}
			log, err := p.Push(t.Context(), there.serve(t, w.PolicyKey), r3, w.Roots)
			if err != nil {
				t.Fatal(err)
			}
			if want := c.newest.GetLog(); log != want {
				t.Errorf("admissions up to %d, want %d", log, want)
			}
			if !there.caller.Equal(w.PolicyKey.Public().Identity()) {
				t.Errorf("called as %s, want the policy key", there.caller)
			}
			if c.leaves == nil {
				if len(there.got) != 0 {
					t.Errorf("published %d times, want not", len(there.got))
				}
				return
			}
			if len(there.got) != 1 {
				t.Fatalf("published %d times, want once", len(there.got))
			}
			got := there.got[0]
			if !slices.Equal(names(got.GetLeaves()), c.leaves) {
				t.Errorf("leaves %v, want %v", names(got.GetLeaves()), c.leaves)
			}
			for _, l := range got.GetLeaves() {
				if h, ok := r3.Tree.Has(l.GetName()); !ok || h != key.HashOf(l.GetData()) {
					t.Errorf("leaf %s is not the revision's", l.GetName())
				}
			}
			if string(got.GetManifest()) != m3 || string(got.GetEnded()) != e3 || !bytes.Equal(got.GetChanges(), r3.Changes) || !bytes.Equal(got.GetOrigins(), r3.Origins) {
				t.Error("another manifest, ended list, change list or origins")
			}
			if !bytes.Equal(got.GetPrev(), c.prev) || !slices.EqualFunc(got.GetRoots(), w.Roots, bytes.Equal) {
				t.Errorf("prev %x of %d roots, want %x of %d", got.GetPrev(), len(got.GetRoots()), c.prev, len(w.Roots))
			}
		})
	}
}

func TestPushThatFails(t *testing.T) {
	w := netmaptest.New(t, noon)
	p := open(t, t.TempDir(), w)
	r := decide(t, p, compiled(t, 1, "alice:a"), noon)
	fail := func(c connect.Code) error { return connect.NewError(c, errors.New("because")) }
	for _, c := range []struct {
		name          string
		fails, refuse error
		manifest      string
		want          string
		refused       bool
	}{
		{"not reached", fail(connect.CodeUnavailable), nil, "", "unavailable: because", false},
		{"not let in", fail(connect.CodePermissionDenied), nil, "", "permission_denied: because", true},
		{"overtaken", nil, fail(connect.CodeAborted), "", "aborted: because", false},
		{"not verified", nil, fail(connect.CodeInvalidArgument), "", "invalid_argument: because", true},
		{"too much", nil, fail(connect.CodeResourceExhausted), "", "resource_exhausted: because", false},
		{"has no manifest, but something", nil, nil, "surprise", "the manifest it has: note: malformed note", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			there := &courier{newest: &wire.NewestResponse{Log: 9, Manifest: []byte(c.manifest)}, fails: c.fails, refuse: c.refuse}
			conn := there.serve(t, w.PolicyKey)
			log, err := p.Push(t.Context(), conn, r, w.Roots)
			if err == nil || log != 0 || !strings.HasPrefix(err.Error(), "publish to "+conn.Addr+": ") || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got %d, %v; want 0, publish to %s: %s", log, err, conn.Addr, c.want)
			}
			if Refused(err) != c.refused {
				t.Errorf("refused for good: %v, want %v", !c.refused, c.refused)
			}
		})
	}
	there := &courier{newest: &wire.NewestResponse{}}
	conn := there.serve(t, w.PolicyKey)
	imposter := dial(t, leaf.Coordinator{Addr: conn.Addr, Pin: key.NewIdentity().Public()}, w.PolicyKey)
	var pin *tlskey.PinError
	if _, err := p.Push(t.Context(), imposter, r, w.Roots); !errors.As(err, &pin) || len(there.got) != 0 {
		t.Errorf("another key than the pinned one: got %v, want %T", err, pin)
	}
	if Refused(nil) {
		t.Error("no error is a refusal")
	}
}

// The real coordinator takes what is pushed: the first revision, what changed
// then, and the same again, also after a restart.
func TestPushToACoordinator(t *testing.T) {
	w := netmaptest.New(t, time.Now())
	p := open(t, t.TempDir(), w)
	co := coordtest.Start(t, w)
	conn := dial(t, co.Coordinator(), w.PolicyKey)
	push := func(r *Revision) {
		t.Helper()
		if _, err := p.Push(t.Context(), conn, r, w.Roots); err != nil {
			t.Fatal(err)
		}
		has, err := conn.API.Newest(t.Context(), connect.NewRequest(&wire.NewestRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := notes(t, p, r); string(has.Msg.GetManifest()) != want {
			t.Errorf("has\n%swant\n%s", has.Msg.GetManifest(), want)
		}
	}
	r := decide(t, p, compiled(t, 1, "alice:a bob:b"), w.Now)
	push(r)
	push(r)
	c := compiled(t, 2, "alice:a,b carol:b")
	c.Ending = map[key.NodeID]string{ids(1)[0]: "pin"}
	push(decide(t, p, c, w.Now))
	co.Restart()
	push(p.Current())
}
