// Package follow keeps a verifier's state up to date with the network's
// coordinators. Agents and relays use it.
//
// A Follower holds one stream to one coordinator at a time. For each update:
//
//  1. the verifier (package netmap) takes up what is signed, proved and not older
//     than what is held; refusals are counted, logged with their hash, and kept
//     for status;
//  2. the next state is written to disk and synced;
//  3. only then is it obeyed: Adopt is called with it, and returns when it is in
//     force.
//
// A state that cannot be written is not obeyed: the one before stays in force,
// and the stream is taken up again later. A stream that is silent for
// wire.SilenceAfter is taken for dead. Without a coordinator the state on disk
// stays in force.
//
// Coordinators are those of the join string and, once a revision is held, those
// of its leaf "network". They are tried in turn, with growing pauses after a
// round in which none answered.
package follow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

// A Stream opens a stream of updates: Agent.Follow or Relay.Follow.
type Stream func(context.Context, *http.Client, string, *wire.FollowRequest) (*connect.ServerStreamForClient[wire.Update], error)

// AsNode follows as an agent does.
func AsNode(ctx context.Context, hc *http.Client, url string, req *wire.FollowRequest) (*connect.ServerStreamForClient[wire.Update], error) {
	return wireconnect.NewAgentClient(hc, url, connect.WithReadMaxBytes(wire.MaxMessage)).Follow(ctx, connect.NewRequest(req))
}

// AsRelay follows as a relay does.
func AsRelay(ctx context.Context, hc *http.Client, url string, req *wire.FollowRequest) (*connect.ServerStreamForClient[wire.Update], error) {
	return wireconnect.NewRelayClient(hc, url, connect.WithReadMaxBytes(wire.MaxMessage)).Follow(ctx, connect.NewRequest(req))
}

// A Config is what a Follower needs. All fields but Log and Now are required.
type Config struct {
	Network      key.NetworkID
	Identity     key.IdentityPrivate
	Self         key.NodeID // the verifier's own node; zero for a relay
	Coordinators []leaf.Coordinator
	File         string // where the state is kept
	Version      string // of the program
	Stream       Stream

	// Adopt puts a state in force and returns when it is. It is called from one
	// goroutine at a time, in order, beginning with the state on disk.
	Adopt func(ctx context.Context, o netmap.Outcome)

	// Refused is told that sync refused this node's join request, and why.
	Refused func(reason string)

	// Connected is called on a new goroutine when a stream has caught up, with a
	// client for the same coordinator; ctx ends with the stream.
	Connected func(ctx context.Context, hc *http.Client, url string)

	Log *slog.Logger
	Now func() time.Time
}

// FileKind is the kind of the state file, for package statefile.
const FileKind = "netmap"

// A Follower follows the coordinators.
type Follower struct {
	cfg     Config // set at construction
	log     *slog.Logger
	now     func() time.Time
	clients map[leaf.Coordinator]*http.Client // owned by Run
	kick    chan struct{}

	mu     sync.Mutex // guards the fields below
	state  *netmap.State
	status Status
	news   chan struct{} // closed when status changes in a way worth telling
}

// A Status says how following goes.
type Status struct {
	Coordinator string    // address of the stream's coordinator; empty while there is none
	Since       time.Time // the stream's begin, or its end
	Heard       time.Time // the newest message
	CaughtUp    bool
	Error       string                // of the last stream or attempt
	Damaged     string                // the state file was damaged at start
	Unwritten   string                // the newest state could not be written, and is not obeyed
	Refusals    map[netmap.Kind]int64 // since start
	Recent      []Refusal             // the newest of each sort, newest last; at most maxRecent
	Bytes       int64                 // of updates received since start
	Updates     int64
}

// A Refusal is a document that was refused, and when.
type Refusal struct {
	At       time.Time
	Kind     netmap.Kind
	Document string
	Hash     key.Hash
	Why      string
	Count    int64 // of this kind and sort of document, since start
}

// class is the sort of document: a flood of one sort does not hide the others.
func (r Refusal) class() string {
	sort, _, _ := strings.Cut(r.Document, " ")
	return sort
}

// Open reads the state from disk. A damaged file of which there is a whole copy
// is reported in Status; one without is an error, since a node that had a state
// does not begin again without one.
func Open(cfg Config) (*Follower, error) {
	f := &Follower{
		cfg: cfg, log: cfg.Log, now: cfg.Now, kick: make(chan struct{}, 1),
		clients: map[leaf.Coordinator]*http.Client{},
		status:  Status{Refusals: map[netmap.Kind]int64{}},
		news:    make(chan struct{}),
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.now == nil {
		f.now = time.Now
	}
	content, err := statefile.Read(cfg.File, FileKind)
	var damaged *statefile.Damaged
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.state = netmap.New(cfg.Network, cfg.Self)
		return f, nil
	case errors.As(err, &damaged) && damaged.Restored:
		f.status.Damaged = damaged.Error()
		f.log.Error("state file damaged", "err", damaged)
	case err != nil:
		return nil, err
	}
	if f.state, err = netmap.Load(cfg.Network, cfg.Self, content); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.File, err)
	}
	return f, nil
}

// State is the state in force.
func (f *Follower) State() *netmap.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Status is a copy of the status.
func (f *Follower) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Refusals = make(map[netmap.Kind]int64, len(f.status.Refusals))
	for k, n := range f.status.Refusals {
		s.Refusals[k] = n
	}
	s.Recent = append([]Refusal(nil), f.status.Recent...)
	return s
}

// News is closed when the stream begins, catches up or ends, or a document is
// refused.
func (f *Follower) News() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.news
}

// tell closes news; f.mu is held.
func (f *Follower) tell() {
	close(f.news)
	f.news = make(chan struct{})
}

// Kick ends a pause between attempts.
func (f *Follower) Kick() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

const (
	firstPause = 200 * time.Millisecond
	// longestPause is short: a coordinator that comes back is found within it,
	// and an attempt costs one connection.
	longestPause = 15 * time.Second

	maxRecent = 32 // kinds times sorts of documents are not many more

	// phaseTimeout is for each of the TCP connection and TLS: one coordinator
	// that is cut off must not keep the next from being asked.
	phaseTimeout = 5 * time.Second
)

// Run follows until ctx ends. It first puts the state on disk in force.
func (f *Follower) Run(ctx context.Context) error {
	f.cfg.Adopt(ctx, netmap.Outcome{State: f.State(), Changed: true})
	pause := firstPause
	for ctx.Err() == nil {
		for _, c := range f.coordinators() {
			caughtUp, incomplete, err := f.stream(ctx, c, false)
			if incomplete && ctx.Err() == nil {
				// A revision that lacks something is asked for whole, of the same
				// coordinator and once: a second failure is answered with patience.
				f.ended(c, err)
				caughtUp, _, err = f.stream(ctx, c, true)
			}
			if ctx.Err() != nil {
				break
			}
			f.ended(c, err)
			// A node that is out is given the newest ended list, and then refused: to
			// have caught up is no reason for it to return at once.
			if caughtUp && connect.CodeOf(err) != connect.CodePermissionDenied {
				pause = firstPause
			}
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
		case <-timer.C:
			pause = min(2*pause, longestPause)
		case <-f.kick:
			pause = firstPause
		}
		timer.Stop()
	}
	for _, hc := range f.clients {
		hc.CloseIdleConnections()
	}
	return ctx.Err()
}

// coordinators are those of the join string, then those of the policy that are
// not among them.
func (f *Follower) coordinators() []leaf.Coordinator {
	out := append([]leaf.Coordinator(nil), f.cfg.Coordinators...)
	known := map[string]bool{}
	for _, c := range out {
		known[c.Addr+c.Pin.String()] = true
	}
	for _, c := range f.State().Netmap(f.now()).Network.Coordinators {
		if !known[c.Addr+c.Pin.String()] {
			out = append(out, c)
		}
	}
	return out
}

func (f *Follower) client(c leaf.Coordinator) *http.Client {
	if hc := f.clients[c]; hc != nil {
		return hc
	}
	hc := Client(f.cfg.Identity, c.Pin)
	f.clients[c] = hc
	return hc
}

// Client is an HTTP client that meets the coordinator with this pin as self.
func Client(self key.IdentityPrivate, pin key.IdentityPublic) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:     tlskey.ClientConfig(self, pin),
			ForceAttemptHTTP2:   true,
			DialContext:         (&net.Dialer{Timeout: phaseTimeout}).DialContext,
			TLSHandshakeTimeout: phaseTimeout,
			MaxIdleConns:        4,
			IdleConnTimeout:     2 * wire.SilenceAfter,
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: wire.AliveEvery, // a dead path is noticed though nothing is sent
				PingTimeout:     10 * time.Second,
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

var errSilent = fmt.Errorf("nothing heard for %s", wire.SilenceAfter)

// stream follows one coordinator until the stream ends.
func (f *Follower) stream(ctx context.Context, c leaf.Coordinator, everything bool) (caughtUp, incomplete bool, err error) {
	run := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(wire.SilenceAfter, func() { cancel(errSilent) })
	defer silence.Stop()

	req := wire.FromHave(f.State().Have(), f.cfg.Version)
	req.Everything = everything
	hc, url := f.client(c), "https://"+c.Addr
	s, err := f.cfg.Stream(ctx, hc, url, req)
	if err != nil {
		return false, false, cause(ctx, err)
	}
	defer s.Close()
	var connected sync.WaitGroup
	defer connected.Wait()
	defer cancel(nil)
	for s.Receive() {
		silence.Reset(wire.SilenceAfter)
		m := s.Msg()
		f.heard(c, m)
		ok, missing := f.take(run, m) // what is adopted is adopted, though the stream ends meanwhile
		if missing {
			return caughtUp, true, errors.New("a revision was not complete")
		}
		if !ok {
			return caughtUp, false, errors.New("the new state could not be written")
		}
		if m.GetRefused() != "" && f.cfg.Refused != nil {
			f.cfg.Refused(m.GetRefused())
		}
		if m.GetCaughtUp() && !caughtUp {
			caughtUp = true
			if f.cfg.Connected != nil {
				connected.Go(func() { f.cfg.Connected(ctx, hc, url) })
			}
		}
	}
	return caughtUp, false, cause(ctx, s.Err())
}

// cause prefers why this end gave up to what the transport made of it.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	if err == nil {
		return errors.New("the coordinator ended the stream")
	}
	return err
}

// heard notes a message in the status.
func (f *Follower) heard(c leaf.Coordinator, m *wire.Update) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Coordinator != c.Addr {
		f.status.Coordinator, f.status.Since, f.status.CaughtUp = c.Addr, now, false
	}
	if f.status.Error != "" || m.GetCaughtUp() && !f.status.CaughtUp {
		defer f.tell()
	}
	f.status.Heard, f.status.Error = now, ""
	f.status.CaughtUp = f.status.CaughtUp || m.GetCaughtUp()
	f.status.Updates++
	f.status.Bytes += int64(proto.Size(m))
}

func (f *Follower) ended(c leaf.Coordinator, err error) {
	f.mu.Lock()
	first := f.status.Coordinator != "" || f.status.Error == ""
	if f.status.Coordinator != "" {
		f.status.Since = f.now()
	}
	f.status.Coordinator, f.status.CaughtUp = "", false
	f.status.Error = fmt.Sprintf("%s: %v", c.Addr, err)
	f.tell()
	f.mu.Unlock()
	level := slog.LevelDebug // the same outage, again
	if first {
		level = slog.LevelWarn
	}
	f.log.Log(context.Background(), level, "coordinator stream ended", "coordinator", c.Addr, "err", err)
}

// take verifies one update, writes the next state and puts it in force.
func (f *Follower) take(ctx context.Context, m *wire.Update) (written, incomplete bool) {
	u, err := wire.ToUpdate(m)
	if err != nil {
		f.refuse(netmap.Refusal{Kind: netmap.Invalid, Document: "update", Err: err})
		return true, false
	}
	if empty(u) {
		return true, false
	}
	o := f.State().Accept(u, f.now())
	for _, r := range o.Refused {
		f.refuse(r)
	}
	if o.Changed {
		if err := f.write(o.State); err != nil {
			return false, false
		}
		f.mu.Lock()
		f.state = o.State
		f.mu.Unlock()
		f.cfg.Adopt(ctx, o)
	}
	return true, len(o.Missing) > 0
}

func (f *Follower) write(s *netmap.State) error {
	content, err := s.Marshal()
	if err == nil {
		err = statefile.Write(f.cfg.File, FileKind, content)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.status.Unwritten = err.Error()
		f.log.Error("the new state is not obeyed, because it cannot be kept", "err", err)
		return err
	}
	f.status.Unwritten = ""
	return nil
}

func (f *Follower) refuse(r netmap.Refusal) {
	f.log.Warn("document refused", "document", r.Document, "kind", r.Kind, "hash", r.Hash, "why", r.Err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Refusals[r.Kind]++
	defer f.tell()
	next := Refusal{f.now(), r.Kind, r.Document, r.Hash, r.Err.Error(), 1}
	f.status.Recent = slices.DeleteFunc(f.status.Recent, func(old Refusal) bool {
		if old.Kind != next.Kind || old.class() != next.class() {
			return false
		}
		next.Count += old.Count
		return true
	})
	f.status.Recent = append(f.status.Recent, next)
	if n := len(f.status.Recent); n > maxRecent {
		f.status.Recent = f.status.Recent[n-maxRecent:]
	}
}

func empty(u netmap.Update) bool {
	return len(u.Roots) == 0 && u.Ended == nil && len(u.Revisions) == 0 && len(u.Leaves) == 0 &&
		u.Admission == nil && len(u.Peers) == 0 && len(u.Gone) == 0
}
