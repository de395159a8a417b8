// Package control is an agent's side of the coordinator's protocol: it follows
// the coordinators (package follow), asks to join where the node is not admitted,
// keeps the node's record current, and acknowledges each revision once it is
// enforced.
//
// # States
//
//	           no root document
//	                │ roots verified against the network's id
//	                ▼
//	┌─ refused ◄─ asking to join        asked again with every new revision,
//	└────────────►  │                   every new stream, and every retryAfter
//	                │ admission verified
//	                ▼
//	            admitted                record put on every stream, and renewed
//	                                    at a third of its life
//
// A coordinator may hold a newer record than the node knows of: its state was
// restored from a copy. It shows that record, whose signature is the node's own,
// and the node signs one above it. Nothing else raises a serial: one that was
// raised at somebody's word could be raised to the last there is.
//
// Nothing here decides anything about access: the state that package netmap
// verified goes to Adopt.
package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/follow"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/netmap"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/wire"
	"github.com/writmesh/writ/coordinator/wire/wireconnect"
)

const (
	// recordLife is how long a record is good: a day without its node is long
	// enough for others to stop taking it up.
	recordLife = 24 * time.Hour

	// retryAfter is how long a refused node waits before it asks again unasked.
	retryAfter = 30 * time.Second

	callTimeout = 10 * time.Second

	// callAgainAfter is how long a call that went wrong is not tried again on
	// the same stream.
	callAgainAfter = 5 * time.Second
)

// A Config is what a Client needs.
type Config struct {
	Network      key.NetworkID
	Identity     key.IdentityPrivate
	WG           key.WGPrivate
	Coordinators []leaf.Coordinator
	Dir          string // the node's state directory
	Version      string

	// Name is the name to ask for, and Secret the enrolment secret to ask with;
	// a zero Secret asks by pin.
	Name   string
	Secret papers.EnrolSecret

	// Adopt puts a netmap in force and returns when it is. Calls come one at a
	// time, never with an older state's netmap after a newer's. It must not call
	// Judge.
	Adopt func(*netmap.Netmap)

	Log *slog.Logger
	Now func() time.Time
}

// A Client keeps one node in touch with its coordinators.
type Client struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	follower *follow.Follower
	wake     chan struct{} // of the loop that runs beside a stream

	// adopting is held from reading a state to its netmap's being in force:
	// Adopt is called with one netmap at a time, and never with an older state's
	// after a newer's.
	adopting sync.Mutex

	mu        sync.Mutex     // guards the fields below
	netmap    *netmap.Netmap // as last put in force
	changed   chan struct{}  // closed when netmap or refused changes
	relays    []string
	posture   map[string]string
	record    []byte // nil where a new one is to be signed
	recordDoc *papers.Record
	unsure    int64  // serials after recordDoc's that a lost record may have
	held      int64  // the highest serial that this node signed, as others showed
	unput     string // why the record could not be put; empty when it was
	refused   string // why sync refused the join request; empty when it did not
}

// Open reads the node's state from disk.
func Open(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, log: cfg.Log, now: cfg.Now, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if err := c.loadRecord(); err != nil {
		return nil, err
	}
	var err error
	c.follower, err = follow.Open(follow.Config{
		Network: cfg.Network, Identity: cfg.Identity, Self: cfg.Identity.Public().NodeID(),
		Coordinators: cfg.Coordinators, File: filepath.Join(cfg.Dir, "netmap.state"), Version: cfg.Version,
		Stream: follow.AsNode, Adopt: c.adopt, Refused: c.wasRefused, Connected: c.beside,
		Log: cfg.Log, Now: cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	c.netmap = c.follower.State().Netmap(c.now())
	return c, nil
}

// Run keeps in touch until ctx ends. It first puts the state on disk in force.
func (c *Client) Run(ctx context.Context) error { return c.follower.Run(ctx) }

// Netmap is the netmap in force, and a channel that is closed when there is
// another or when a join request is refused.
func (c *Client) Netmap() (*netmap.Netmap, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.netmap, c.changed
}

// Admission is the node's admission note, which relays ask for; nil before it
// has one.
func (c *Client) Admission() []byte {
	_, doc := c.follower.State().Admission()
	return doc
}

// Status is how following goes, and why sync refused to admit the node.
func (c *Client) Status() (s follow.Status, refused string) {
	c.mu.Lock()
	refused = c.refused
	c.mu.Unlock()
	return c.follower.Status(), refused
}

// Unput is why the node's newest record is not with its coordinator: it could not
// be signed, or was refused. It is empty when the record was put, and stays as it
// is while there is no connection.
func (c *Client) Unput() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unput
}

func (c *Client) noteUnput(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unput == why {
		return
	}
	c.unput = why
	close(c.changed)
	c.changed = make(chan struct{})
}

// Time is the verifier's: the later of the clock and the newest issued time
// verified.
func (c *Client) Time() time.Time { return c.follower.State().At(c.now()) }

// News is closed when something of the status changes.
func (c *Client) News() <-chan struct{} { return c.follower.News() }

// Judge puts the netmap in force again as it is at this moment: sessions and
// memberships end with time alone.
func (c *Client) Judge() { c.put() }

// SetRelays names the node's home relays, best first, in its record.
func (c *Client) SetRelays(names []string) {
	c.mu.Lock()
	same := slices.Equal(names, c.relays)
	c.relays = slices.Clone(names)
	c.mu.Unlock()
	if !same {
		c.stir()
	}
}

// SetPosture says what the node reports of itself in its record. What a record
// cannot hold is an error, and the posture stays as it was.
func (c *Client) SetPosture(posture map[string]string) error {
	if err := checkPosture(posture); err != nil {
		return err
	}
	c.mu.Lock()
	same := maps.Equal(posture, c.posture)
	c.posture = maps.Clone(posture)
	c.mu.Unlock()
	if !same {
		c.stir()
	}
	return nil
}

func checkPosture(posture map[string]string) error {
	if len(posture) > papers.MaxPosture {
		return fmt.Errorf("posture: %d attributes, at most %d", len(posture), papers.MaxPosture)
	}
	for attr, value := range posture {
		if err := acl.CheckAttr(attr); err != nil {
			return fmt.Errorf("posture: %w", err)
		}
		if err := acl.CheckAttrValue(value); err != nil {
			return fmt.Errorf("posture: %s: %w", attr, err)
		}
	}
	return nil
}

func (c *Client) stir() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// adopt is called by the follower with each new state, which is the follower's
// by then.
func (c *Client) adopt(context.Context, netmap.Outcome) {
	c.put()
	c.stir()
}

// put puts the newest state in force.
func (c *Client) put() {
	c.adopting.Lock()
	defer c.adopting.Unlock()
	n := c.follower.State().Netmap(c.now())
	c.cfg.Adopt(n)
	c.mu.Lock()
	c.netmap = n
	if n.Self != nil {
		c.refused = ""
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

func (c *Client) wasRefused(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused != reason {
		c.log.Warn("not admitted", "why", reason)
	}
	c.refused = reason
	close(c.changed)
	c.changed = make(chan struct{})
}

// beside runs beside a stream that has caught up: it joins, puts the record and
// acknowledges, whenever there is something to do.
func (c *Client) beside(ctx context.Context, hc *http.Client, url string) {
	api := wireconnect.NewAgentClient(hc, url, connect.WithReadMaxBytes(wire.MaxMessage))
	var putSerial int64      // of the record put on this stream
	var acked trust.Position // on this stream
	var asked trust.Position // the revision under which the node last asked to join
	askedAt := time.Time{}
	for {
		n, _ := c.Netmap()
		admission, _ := c.follower.State().Admission()
		var err error
		var next time.Duration
		switch {
		case c.follower.State().Root() == nil:
			next = retryAfter // the stream brings it, and then wakes
		case admission == nil:
			next = retryAfter
			if n.Position != asked || c.now().Sub(askedAt) >= retryAfter {
				asked, askedAt = n.Position, c.now()
				if err = c.join(ctx, api); err != nil {
					askedAt = time.Time{}
				}
			}
		default:
			// What the node enforces is worth knowing whatever becomes of its record.
			putSerial, next, err = c.putRecord(ctx, api, putSerial)
			var ackErr error
			acked, ackErr = c.acknowledge(ctx, api, n, acked)
			err = errors.Join(err, ackErr)
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			c.log.Warn("coordinator call", "err", err)
			next = min(next, callAgainAfter)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func call(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return do(ctx)
}

func (c *Client) join(ctx context.Context, api wireconnect.AgentClient) error {
	root := c.follower.State().Root()
	if len(root.SealKeys) == 0 {
		return errors.New("join: the root document names no sealing key")
	}
	proof := papers.Proof{Kind: papers.ProofPin}
	if c.cfg.Secret.Entry != "" {
		proof = c.cfg.Secret.Proof(c.cfg.Network, c.cfg.Identity.Public(), c.cfg.Name)
	}
	msg, err := papers.NewJoin(c.cfg.Network, c.cfg.Identity, c.cfg.Name, c.Time(), root.SealKeys[0], proof)
	if err != nil {
		return err
	}
	return call(ctx, func(ctx context.Context) error {
		r, err := api.Join(ctx, connect.NewRequest(&wire.JoinRequest{Join: msg}))
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
		if r.Msg.GetState() == wire.JoinResponse_STATE_REFUSED {
			c.wasRefused(r.Msg.GetReason())
		}
		return nil
	})
}

// putRecord puts the record in force unless it was put on this stream, and
// returns the serial of the one that was and when it is to be looked at again.
func (c *Client) putRecord(ctx context.Context, api wireconnect.AgentClient, put int64) (int64, time.Duration, error) {
	for again := false; ; again = true {
		doc, rec, err := c.current()
		if err != nil {
			err = fmt.Errorf("sign record: %w", err)
			c.noteUnput(err.Error())
			return put, callAgainAfter, err
		}
		if rec.Serial != put {
			err = call(ctx, func(ctx context.Context) error {
				_, err := api.PutRecord(ctx, connect.NewRequest(&wire.PutRecordRequest{Record: doc}))
				return err
			})
			if !again && c.outdated(rec, err) {
				continue
			}
		}
		if err != nil {
			err = fmt.Errorf("put record: %w", err)
			if answered(err) {
				c.noteUnput(err.Error())
			}
			return put, callAgainAfter, err
		}
		c.noteUnput("")
		return rec.Serial, max(time.Second, rec.Issued.Add(recordLife/3).Sub(c.Time())), nil
	}
}

// answered reports whether an error is what a coordinator said, and not that it
// said nothing.
func answered(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeDeadlineExceeded, connect.CodeUnknown:
		return false
	}
	return true
}

// outdated reports whether a record was refused for one that this node signed and
// knows nothing of. The next record is then above that one.
func (c *Client) outdated(rec *papers.Record, err error) bool {
	var refusal *connect.Error
	if !errors.As(err, &refusal) {
		return false
	}
	for _, d := range refusal.Details() {
		m, err := d.Value()
		if err != nil {
			continue
		}
		shown, ok := m.(*wire.PutRecordRequest)
		if !ok {
			continue
		}
		held, err := papers.OpenRecord(shown.GetRecord(), c.cfg.Network, c.cfg.Identity.Public())
		if err != nil || held.Serial < rec.Serial || held.Hash() == rec.Hash() {
			continue
		}
		c.log.Warn("the coordinator holds a newer record of this node than its state directory: restored from a copy?",
			"held", held.Serial, "issued", held.Issued, "known", rec.Serial)
		c.mu.Lock()
		c.held = max(c.held, held.Serial)
		c.mu.Unlock()
		return true
	}
	return false
}

// acknowledge says what the node enforces, unless it has said so on this stream.
func (c *Client) acknowledge(ctx context.Context, api wireconnect.AgentClient, n *netmap.Netmap, acked trust.Position) (trust.Position, error) {
	if n.Position == acked || n.Self == nil {
		return acked, nil
	}
	msg, err := papers.SignAck(papers.Ack{
		Network: c.cfg.Network, Position: n.Position, Manifest: n.Manifest, Digest: n.Digest, Issued: c.Time(),
	}, c.cfg.Identity)
	if err != nil {
		return acked, err
	}
	err = call(ctx, func(ctx context.Context) error {
		_, err := api.Acknowledge(ctx, connect.NewRequest(&wire.AcknowledgeRequest{Ack: msg}))
		return err
	})
	if err != nil {
		return acked, fmt.Errorf("acknowledge %s: %w", n.Position, err)
	}
	return n.Position, nil
}

const recordKind = "record"

func (c *Client) recordFile() string { return filepath.Join(c.cfg.Dir, "record.state") }

// loadRecord reads the newest record that the node signed, so that serials rise
// whatever the clock does.
func (c *Client) loadRecord() error {
	doc, err := statefile.Read(c.recordFile(), recordKind)
	var damaged *statefile.Damaged
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, &damaged) && damaged.Restored:
		// The record that is lost came after this one and others may hold it, with
		// the clock's serial or the next one.
		c.log.Error("state file damaged", "err", damaged)
		c.unsure = 1
	case err != nil:
		return err
	}
	c.recordDoc, err = papers.OpenRecord(doc, c.cfg.Network, c.cfg.Identity.Public())
	if err != nil {
		return fmt.Errorf("%s: %w", c.recordFile(), err)
	}
	// Until relays are connected again the node is best found where it was.
	c.relays = c.recordDoc.Relays
	if c.unsure == 0 {
		c.record = doc
	}
	return nil
}

// current is the record in force, signed anew where it is old or says something
// else than is true. It is on disk before it is shown to anybody.
func (c *Client) current() ([]byte, *papers.Record, error) {
	now := c.Time().UTC().Truncate(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	wg := c.cfg.WG.Public()
	if old := c.recordDoc; c.record != nil && old != nil && old.Serial > c.held && old.WG.Equal(wg) && slices.Equal(old.Relays, c.relays) && maps.Equal(old.Posture, c.posture) &&
		now.Sub(old.Issued) < recordLife/3 && !now.Before(old.Issued) {
		return c.record, old, nil
	}
	serial := now.Unix()
	if c.held != 0 {
		serial = max(serial, c.held+1)
	}
	if c.recordDoc != nil {
		serial = max(serial, c.recordDoc.Serial+1) + c.unsure
	}
	doc, rec, err := papers.SignRecord(papers.Record{
		Network: c.cfg.Network, Serial: serial, WG: wg, Relays: c.relays, Posture: c.posture,
		Issued: now, Expires: now.Add(recordLife),
	}, c.cfg.Identity)
	if err != nil {
		return nil, nil, err
	}
	if err := statefile.Write(c.recordFile(), recordKind, doc); err != nil {
		return nil, nil, err
	}
	c.record, c.recordDoc, c.unsure = doc, rec, 0
	return doc, rec, nil
}
