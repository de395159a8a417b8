package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/wire"
)

func TestRecordOnEveryStream(t *testing.T) {
	f, w, r := admittedFake(t)
	c, _ := begin(t, f.config(t.TempDir()))
	first := next(t, "record", f.records)
	wantAck(t, f, r)
	c.SetRelays([]string{"eu-1", "us-1"})
	second := next(t, "record with relays", f.records)
	if second.Serial <= first.Serial || strings.Join(second.Relays, " ") != "eu-1 us-1" {
		t.Errorf("got serial %d and relays %q, want more than %d and eu-1 us-1", second.Serial, second.Relays, first.Serial)
	}
	for range 3 {
		f.cutStreams()
		c.follower.Kick()
		next(t, "stream", f.follows)
		if again := next(t, "record", f.records); again.Hash() != second.Hash() {
			t.Errorf("on a new stream: got the record of serial %d, want that of %d again", again.Serial, second.Serial)
		}
		wantAck(t, f, r) // again on every stream
	}
	// The same relays are no news.
	c.SetRelays([]string{"eu-1", "us-1"})
	c.SetRelays([]string{"us-1"})
	if third := next(t, "record", f.records); third.Serial <= second.Serial || strings.Join(third.Relays, " ") != "us-1" {
		t.Errorf("got serial %d and relays %q, want more than %d and us-1", third.Serial, third.Relays, second.Serial)
	}
	none(t, "acknowledgement of what is acknowledged", f.acks)
	// Another revision is no reason to put the record again.
	w.Advance(time.Minute)
	r = w.Publish(policy())
	f.publish(r)
	wantAck(t, f, r)
	none(t, "record that was put already", f.records)
}

// What a node enforces is acknowledged whatever becomes of its record.
func TestAcknowledgedWithoutARecord(t *testing.T) {
	f, _, r := admittedFake(t)
	f.bad = true
	begin(t, f.config(t.TempDir()))
	next(t, "record", f.records)
	wantAck(t, f, r)
}

// A clock is what the client takes for the time.
type clock struct {
	nanos atomic.Int64
	hook  atomic.Pointer[func()] // called once, by who asks next
}

func newClock(at time.Time) *clock {
	c := &clock{}
	c.set(at)
	return c
}

func (c *clock) set(at time.Time)        { c.nanos.Store(at.UnixNano()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }
func (c *clock) now() time.Time {
	if h := c.hook.Swap(nil); h != nil {
		(*h)()
	}
	return time.Unix(0, c.nanos.Load())
}

func TestRecordRenewedAtAThirdOfItsLife(t *testing.T) {
	f, w, r := admittedFake(t)
	clock := newClock(w.Now.Add(time.Hour))
	cfg := f.config(t.TempDir())
	cfg.Now = clock.now
	c, _ := begin(t, cfg)
	first := next(t, "record", f.records)
	wantAck(t, f, r)
	if life := first.Expires.Sub(first.Issued); life != recordLife {
		t.Errorf("the record lives %s, want %s", life, recordLife)
	}
	again := func() *papers.Record {
		t.Helper()
		f.cutStreams()
		c.follower.Kick()
		rec := next(t, "record", f.records)
		wantAck(t, f, r)
		return rec
	}
	// The loop looks again just when a third is over, whenever the stream began.
	const age = 3 * time.Hour
	clock.advance(age)
	if _, wait, err := c.putRecord(t.Context(), nil, first.Serial); err != nil || wait != recordLife/3-age {
		t.Errorf("at the age of %s: looks again in %s, %v, want %s", age, wait, err, recordLife/3-age)
	}
	clock.advance(recordLife/3 - age - time.Second)
	if rec := again(); rec.Hash() != first.Hash() {
		t.Errorf("a second before a third: got serial %d, want %d again", rec.Serial, first.Serial)
	}
	clock.advance(time.Second)
	second := again()
	if second.Serial <= first.Serial || second.Issued.Sub(first.Issued) != recordLife/3 {
		t.Errorf("at a third: got serial %d issued %s later, want more than %d and %s", second.Serial, second.Issued.Sub(first.Issued), first.Serial, recordLife/3)
	}
	// Also within a stream, when anything wakes the loop.
	clock.advance(recordLife / 2)
	c.stir()
	if third := next(t, "record", f.records); third.Serial <= second.Serial {
		t.Errorf("within a stream: got serial %d, want more than %d", third.Serial, second.Serial)
	}
}

// Serials rise whatever the clock does, and whatever the node remembers.
func TestSerialsRise(t *testing.T) {
	f, w, _ := admittedFake(t)
	clock := newClock(w.Now.Add(48 * time.Hour))
	dir := t.TempDir()
	cfg := f.config(dir)
	cfg.Now = clock.now
	var last *papers.Record
	step := func(what string, c *Client, relays ...string) {
		t.Helper()
		c.SetRelays(relays)
		rec := next(t, "record", f.records)
		for len(f.records) > 0 || last != nil && rec.Hash() == last.Hash() {
			rec = next(t, "record", f.records)
		}
		if last != nil && rec.Serial <= last.Serial {
			t.Errorf("%s: got serial %d after %d, want more", what, rec.Serial, last.Serial)
		}
		last = rec
	}
	c, stop := begin(t, cfg)
	step("first", c, "a")
	if last.Serial != clock.now().Unix() {
		t.Errorf("got serial %d, want the clock's %d", last.Serial, clock.now().Unix())
	}
	step("same second", c, "b")
	clock.set(w.Now.Add(time.Hour))
	step("clock went back", c, "c")
	if !last.Issued.Equal(clock.now()) {
		t.Errorf("issued: got %s, want the clock's %s", last.Issued, clock.now())
	}
	// The clock of a machine that lost it is 1970; records that nobody would
	// take up any more help nobody, so that the newest document dates it.
	clock.set(time.Unix(0, 0))
	step("clock lost", c, "d")
	if last.Issued.Before(w.Now) {
		t.Errorf("issued: got %s, want %s at least", last.Issued, w.Now)
	}
	stop()
	c, stop = begin(t, cfg)
	step("restart with the clock lost", c, "e")
	stop()

	// The file of the newest record is damaged: there is the one before it, and
	// the damaged one was seen by others.
	file := filepath.Join(dir, "record.state")
	flip(t, file)
	clock.set(w.Now.Add(time.Hour))
	_, stop = begin(t, cfg)
	if rec := next(t, "record", f.records); rec.Serial <= last.Serial {
		t.Errorf("newest record damaged: got serial %d after %d, want more", rec.Serial, last.Serial)
	}
	stop()
	flip(t, file)
	flip(t, file+".prev")
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("both damaged: got %v, want an error that names %s", err, file)
	}
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	// A new file: the old one may have two names.
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A restarted node is found where it was until its relays are connected again.
func TestRelaysSurviveARestart(t *testing.T) {
	f, _, r := admittedFake(t)
	cfg := f.config(t.TempDir())
	c, stop := begin(t, cfg)
	wantAck(t, f, r)
	next(t, "record", f.records)
	c.SetRelays([]string{"eu-1"})
	before := next(t, "record with relays", f.records)
	stop()
	begin(t, cfg)
	if after := next(t, "record", f.records); after.Hash() != before.Hash() {
		t.Errorf("after a restart: got relays %q, want the record before, of %q", after.Relays, before.Relays)
	}
}

// A state directory that is restored from a copy has an older record than the
// coordinator holds. The node signs one above it at once, even if the one held is
// of a time when its clock ran ahead.
func TestRecordAfterARestore(t *testing.T) {
	for _, ahead := range []time.Duration{0, 48 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			f, w, r := admittedFake(t)
			f.holds = true
			clock := newClock(w.Now.Add(time.Minute))
			dir := t.TempDir()
			cfg := f.config(dir)
			cfg.Now = clock.now
			_, stop := begin(t, cfg)
			next(t, "record", f.records)
			wantAck(t, f, r)
			stop()
			copied, err := os.ReadFile(filepath.Join(dir, "record.state"))
			if err != nil {
				t.Fatal(err)
			}

			clock.advance(ahead + time.Minute)
			c, stop := begin(t, cfg)
			next(t, "record", f.records)
			c.SetRelays([]string{"eu-1"})
			held := next(t, "record with relays", f.records)
			wantAck(t, f, r)
			stop()
			for len(f.records) > 0 {
				held = <-f.records
			}

			clock.advance(time.Minute - ahead)
			if err := os.WriteFile(filepath.Join(dir, "record.state"), copied, 0o600); err != nil {
				t.Fatal(err)
			}
			c, stop = begin(t, cfg)
			if old := next(t, "record of the copy", f.records); old.Serial >= held.Serial {
				t.Fatalf("clock %s ahead: the copy has serial %d, want less than %d", ahead, old.Serial, held.Serial)
			}
			again := next(t, "record above the one held", f.records)
			if again.Serial <= held.Serial {
				t.Errorf("clock %s ahead: got serial %d, want more than %d", ahead, again.Serial, held.Serial)
			}
			wantAck(t, f, r)
			waitFor(t, c, "no refusal", func() bool { return c.Unput() == "" })
			none(t, "third record", f.records)
			stop()
			// What was learnt is on disk.
			begin(t, cfg)
			if kept := next(t, "record after a restart", f.records); kept.Hash() != again.Hash() {
				t.Errorf("clock %s ahead: after a restart got serial %d, want %d again", ahead, kept.Serial, again.Serial)
			}
			wantAck(t, f, r)
		})
	}
}

// A coordinator raises no serial by its word: not with a record of another node,
// nor with one that is not above the node's.
func TestSerialIsRaisedByItsOwnRecordAlone(t *testing.T) {
	f, w, r := admittedFake(t)
	mallory := w.Admit("mallory", "tag:a")
	c, _ := begin(t, f.config(t.TempDir()))
	mine := next(t, "record", f.records)
	wantAck(t, f, r)
	sign := func(k key.IdentityPrivate, serial int64) []byte {
		t.Helper()
		doc, _, err := papers.SignRecord(papers.Record{
			Network: f.w.Network, Serial: serial, WG: f.node.WG.Public(), Issued: w.Now, Expires: w.Now.Add(time.Hour),
		}, k)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	refusal := func(doc []byte) error {
		t.Helper()
		d, err := connect.NewErrorDetail(&wire.PutRecordRequest{Record: doc})
		if err != nil {
			t.Fatal(err)
		}
		e := connect.NewError(connect.CodeInvalidArgument, errors.New("a higher serial is held"))
		e.AddDetail(d)
		return e
	}
	const far = 1 << 60
	for name, err := range map[string]error{
		"no error":           nil,
		"no details":         connect.NewError(connect.CodeInvalidArgument, errors.New("serial 1152921504606846976 is held")),
		"another node's":     refusal(sign(mallory.Key, far)),
		"a lower serial":     refusal(sign(f.node.Key, mine.Serial-1)),
		"an empty record":    refusal(nil),
		"not a record":       refusal([]byte("serial 1152921504606846976")),
		"an altered record":  refusal(append(sign(f.node.Key, far), '\n')),
		"a transport error":  errors.New("connection reset"),
		"the record refused": refusal(c.record),
	} {
		if c.outdated(mine, err) {
			t.Errorf("%s: got outdated, want not", name)
		}
	}
	if c.held != 0 {
		t.Errorf("got serial %d held, want none", c.held)
	}
	if !c.outdated(mine, refusal(sign(f.node.Key, mine.Serial+7))) || c.held != mine.Serial+7 {
		t.Errorf("its own record: got serial %d held, want %d", c.held, mine.Serial+7)
	}
	if _, rec, err := c.current(); err != nil || rec.Serial <= mine.Serial+7 {
		t.Errorf("got serial %d, %v, want more than %d", rec.Serial, err, mine.Serial+7)
	}
}

// While the record is refused, the status says so; and no longer.
func TestRefusedRecordIsNoted(t *testing.T) {
	f, _, r := admittedFake(t)
	f.bad = true
	c, _ := begin(t, f.config(t.TempDir()))
	next(t, "record", f.records)
	wantAck(t, f, r)
	waitFor(t, c, "refusal", func() bool { return strings.Contains(c.Unput(), "refused by the test") })
	f.mu.Lock()
	f.bad = false
	f.mu.Unlock()
	c.stir()
	next(t, "record", f.records)
	waitFor(t, c, "no refusal", func() bool { return c.Unput() == "" })
}
