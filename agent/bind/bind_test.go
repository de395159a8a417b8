package bind

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/writmesh/writ/coordinator/key"
)

func node(n byte) key.NodeID { return key.NodeID{0: n, 31: n} }

// A recorder is a Sender that keeps what it is given.
type recorder struct {
	mu   sync.Mutex
	err  error
	to   []key.NodeID
	sent [][]byte
}

func (r *recorder) Send(dst key.NodeID, pkts [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	for _, p := range pkts {
		r.to = append(r.to, dst)
		r.sent = append(r.sent, bytes.Clone(p))
	}
	return nil
}

func newBind(t testing.TB, cfg Config) *Bind {
	t.Helper()
	if cfg.Sender == nil {
		cfg.Sender = &recorder{}
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func know(t testing.TB, b *Bind, ids ...key.NodeID) {
	t.Helper()
	for _, id := range ids {
		if _, err := b.ParseEndpoint(id.String()); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, b *Bind) conn.ReceiveFunc {
	t.Helper()
	fns, port, err := b.Open(51820)
	if err != nil {
		t.Fatal(err)
	}
	if len(fns) != 1 || port != 51820 {
		t.Fatalf("Open: %d functions on port %d, want 1 on 51820", len(fns), port)
	}
	return fns[0]
}

// A batch is what WireGuard passes to a receive function.
type batch struct {
	bufs  [][]byte
	sizes []int
	eps   []conn.Endpoint
}

func newBatch() *batch {
	b := &batch{sizes: make([]int, BatchSize), eps: make([]conn.Endpoint, BatchSize)}
	for range BatchSize {
		b.bufs = append(b.bufs, make([]byte, device.MaxMessageSize))
	}
	return b
}

func message(typ uint32, size int) []byte {
	m := make([]byte, size)
	binary.LittleEndian.PutUint32(m, typ)
	return m
}

func TestNewWithoutSender(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New without a Sender: no error")
	}
}

func TestParseEndpoint(t *testing.T) {
	b := newBind(t, Config{})
	id := key.NewIdentity().Public().NodeID()
	e, err := b.ParseEndpoint(id.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := e.DstToString(); got != id.String() {
		t.Errorf("DstToString: got %s, want %s", got, id)
	}
	if got := e.(*Endpoint).Node(); got != id {
		t.Errorf("Node: got %s, want %s", got, id)
	}
	if again, _ := b.ParseEndpoint(id.String()); again != e {
		t.Error("the same node has two endpoints")
	}
	if other, _ := b.ParseEndpoint(node(7).String()); other.DstIP() == e.DstIP() {
		t.Error("two nodes share one handshake limit")
	}
	for _, s := range []string{"", "nid:", "127.0.0.1:51820", "[::1]:1", id.String() + "a", "NID:" + id.String()[4:]} {
		if _, err := b.ParseEndpoint(s); err == nil {
			t.Errorf("ParseEndpoint(%q): no error", s)
		}
	}
}

type foreign struct{ conn.Endpoint }

func TestSend(t *testing.T) {
	r := &recorder{}
	b := newBind(t, Config{Sender: r})
	e, _ := b.ParseEndpoint(node(1).String())
	pkts := [][]byte{message(4, 32), message(4, 48)}
	if err := b.Send(pkts, e); err != nil {
		t.Fatal(err)
	}
	if len(r.sent) != 2 || r.to[0] != node(1) || !bytes.Equal(r.sent[1], pkts[1]) {
		t.Errorf("sent %d packets to %v, want 2 to %v", len(r.sent), r.to, node(1))
	}
	if err := b.Send(pkts, foreign{}); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("foreign endpoint: got %v, want %v", err, conn.ErrWrongEndpointType)
	}
	r.err = errors.New("no path")
	if err := b.Send(pkts, e); !errors.Is(err, r.err) {
		t.Errorf("got %v, want %v", err, r.err)
	}
	if got := b.Stats().Unsent; got != 2 {
		t.Errorf("Unsent: got %d, want 2", got)
	}
}

// The model is a slice: what was delivered and not yet received, oldest first.
func TestQueueAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := newBind(t, Config{})
		b.queue.init(1 + rng.IntN(300))
		know(t, b, node(1), node(2))
		recv := open(t, b)
		buf := newBatch()
		type packet struct {
			from key.NodeID
			data []byte
		}
		var model []packet
		var want Stats
		isOpen := true
		for step := range 1500 {
			switch rng.IntN(20) {
			case 0:
				if isOpen {
					b.Close()
					want.Closed += uint64(len(model))
					model, isOpen = nil, false
					if _, err := recv(buf.bufs, buf.sizes, buf.eps); !errors.Is(err, net.ErrClosed) {
						t.Fatalf("seed %d step %d: receive after Close: %v, want %v", seed, step, err, net.ErrClosed)
					}
				} else {
					old := recv
					recv, isOpen = open(t, b), true
					if _, err := old(buf.bufs, buf.sizes, buf.eps); !errors.Is(err, net.ErrClosed) {
						t.Fatalf("seed %d step %d: receive of an earlier opening: %v, want %v", seed, step, err, net.ErrClosed)
					}
				}
			case 1, 2:
				if len(model) == 0 {
					continue
				}
				n, err := recv(buf.bufs, buf.sizes, buf.eps)
				if err != nil || n != min(len(model), BatchSize) {
					t.Fatalf("seed %d step %d: received %d, %v; want %d", seed, step, n, err, min(len(model), BatchSize))
				}
				for i := range n {
					if got := buf.eps[i].(*Endpoint).Node(); got != model[i].from {
						t.Fatalf("seed %d step %d: packet %d from %v, want %v", seed, step, i, got, model[i].from)
					}
					if !bytes.Equal(buf.bufs[i][:buf.sizes[i]], model[i].data) {
						t.Fatalf("seed %d step %d: packet %d differs", seed, step, i)
					}
				}
				model = model[n:]
			default:
				p := packet{node(byte(1 + rng.IntN(2))), make([]byte, rng.IntN(1500))}
				if rng.IntN(50) == 0 {
					p.data = make([]byte, MaxPacket-1+rng.IntN(3))
				}
				for i := range p.data {
					p.data[i] = byte(rng.Uint32())
				}
				b.Deliver(p.from, p.data)
				switch {
				case len(p.data) == 0 || len(p.data) > MaxPacket:
					want.Size++
				case !isOpen:
					want.Closed++
				case len(model) == len(b.queue.ring):
					want.Full++
				default:
					want.Delivered++
					model = append(model, p)
				}
			}
		}
		if got := b.Stats(); got != want {
			t.Errorf("seed %d: got %+v, want %+v", seed, got, want)
		}
	}
}

func TestOpenTwice(t *testing.T) {
	b := newBind(t, Config{})
	open(t, b)
	if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("got %v, want %v", err, conn.ErrBindAlreadyOpen)
	}
	b.Close()
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	open(t, b)
}

// A reader that sleeps is woken by a packet, and by Close; under synctest a
// reader that is not woken is a deadlock, which fails the test.
func TestReaderWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBind(t, Config{})
		know(t, b, node(1))
		recv := open(t, b)
		got := make(chan string)
		go func() {
			buf := newBatch()
			for {
				n, err := recv(buf.bufs, buf.sizes, buf.eps)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- fmt.Sprint(n)
			}
		}()
		for range 3 {
			synctest.Wait()
			b.Deliver(node(1), message(4, 32))
			if g := <-got; g != "1" {
				t.Errorf("got %s packets, want 1", g)
			}
		}
		synctest.Wait()
		b.Close()
		if g := <-got; g != net.ErrClosed.Error() {
			t.Errorf("after Close: got %q, want %q", g, net.ErrClosed)
		}
	})
}

func TestUnknownNode(t *testing.T) {
	var told []key.NodeID
	b := newBind(t, Config{Unknown: func(src key.NodeID, pkt []byte) { told = append(told, src) }})
	recv := open(t, b)
	know(t, b, node(1))
	b.Deliver(node(2), message(1, 148))
	b.Deliver(node(2), nil)
	b.Deliver(node(2), make([]byte, MaxPacket+1))
	if len(told) != 1 || told[0] != node(2) {
		t.Errorf("Unknown was told of %v, want of %v once", told, node(2))
	}
	b.Forget(node(1))
	b.Deliver(node(1), message(1, 148))
	if len(told) != 2 || told[1] != node(1) {
		t.Errorf("after Forget: Unknown was told of %v, want also of %v", told, node(1))
	}
	if s := b.Stats(); s.Unknown != 4 || s.Delivered != 0 {
		t.Errorf("got %+v, want 4 unknown, none delivered", s)
	}
	// The peer is configured, and the packet delivered again.
	know(t, b, node(2))
	b.Deliver(node(2), message(1, 148))
	buf := newBatch()
	if n, err := recv(buf.bufs, buf.sizes, buf.eps); n != 1 || err != nil {
		t.Errorf("received %d, %v; want 1", n, err)
	}
}

func TestRetry(t *testing.T) {
	initiation := message(device.MessageInitiationType, device.MessageInitiationSize)
	response := message(device.MessageResponseType, device.MessageResponseSize)
	data := message(device.MessageTransportType, 64)
	cookie := message(device.MessageCookieReplyType, device.MessageCookieReplySize)
	for _, c := range []struct {
		name  string
		steps func(b *Bind, e conn.Endpoint)
		want  []byte
	}{
		{"nothing sent", func(*Bind, conn.Endpoint) {}, nil},
		{"initiation unanswered", func(b *Bind, e conn.Endpoint) { b.Send([][]byte{initiation}, e) }, initiation},
		{"response unanswered", func(b *Bind, e conn.Endpoint) { b.Send([][]byte{response}, e) }, response},
		{"the newest is held", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{response}, e)
			b.Send([][]byte{initiation}, e)
		}, initiation},
		{"data is not held", func(b *Bind, e conn.Endpoint) { b.Send([][]byte{data}, e) }, nil},
		{"answered by a response", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{initiation}, e)
			b.Deliver(node(1), response)
		}, nil},
		{"answered by data", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{response}, e)
			b.Deliver(node(1), data)
		}, nil},
		{"a cookie is no answer", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{initiation}, e)
			b.Deliver(node(1), cookie)
		}, initiation},
		{"another node is no answer", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{initiation}, e)
			b.Deliver(node(2), data)
		}, initiation},
		{"as old as WireGuard lets it get", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{initiation}, e)
			time.Sleep(holdFor)
		}, initiation},
		{"older", func(b *Bind, e conn.Endpoint) {
			b.Send([][]byte{initiation}, e)
			time.Sleep(holdFor + 1)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				b := newBind(t, Config{Sender: r})
				know(t, b, node(1), node(2))
				open(t, b)
				e, _ := b.ParseEndpoint(node(1).String())
				r.err = errors.New("no path")
				c.steps(b, e)
				r.err = nil
				b.Retry(node(2))
				if len(r.sent) != 0 {
					t.Fatalf("retry of another node sent %d packets", len(r.sent))
				}
				for i, retry := range []func(){func() { b.Retry(node(1)) }, b.RetryAll} {
					r.sent, r.to = nil, nil
					retry()
					var got []byte
					if len(r.sent) == 1 && r.to[0] == node(1) {
						got = r.sent[0]
					}
					if len(r.sent) > 1 || !bytes.Equal(got, c.want) {
						t.Errorf("retry %d: got %x, want %x", i, r.sent, c.want)
					}
				}
			})
		})
	}
}

func TestNoAllocationPerPacket(t *testing.T) {
	b := newBind(t, Config{})
	know(t, b, node(1))
	recv := open(t, b)
	buf, pkt := newBatch(), message(4, 1400)
	round := func() {
		for range BatchSize {
			b.Deliver(node(1), pkt)
		}
		if n, err := recv(buf.bufs, buf.sizes, buf.eps); n != BatchSize || err != nil {
			t.Fatalf("received %d, %v; want %d", n, err, BatchSize)
		}
	}
	for range QueueLength/BatchSize + 2 {
		round() // every slot gets its buffer
	}
	if got := testing.AllocsPerRun(100, round); got != 0 {
		t.Errorf("%v allocations per %d packets, want 0", got, BatchSize)
	}
}

// FuzzDeliver: whatever is delivered comes out as it went in, or is counted.
func FuzzDeliver(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0})
	f.Add(message(device.MessageInitiationType, device.MessageInitiationSize))
	f.Add(message(device.MessageTransportType, 32))
	f.Add(make([]byte, MaxPacket+1))
	b, err := New(Config{Sender: &recorder{}})
	if err != nil {
		f.Fatal(err)
	}
	know(f, b, node(1))
	recv := open(f, b)
	buf := newBatch()
	f.Fuzz(func(t *testing.T, pkt []byte) {
		before := b.Stats()
		b.Deliver(node(1), pkt)
		if b.Stats().Delivered == before.Delivered {
			if s := b.Stats(); s.Size+s.Repeated != before.Size+before.Repeated+1 {
				t.Fatal("neither delivered nor counted")
			}
			return
		}
		n, err := recv(buf.bufs, buf.sizes, buf.eps)
		if n != 1 || err != nil || !bytes.Equal(buf.bufs[0][:buf.sizes[0]], pkt) {
			t.Fatalf("received %d, %v", n, err)
		}
	})
}

func BenchmarkDeliverReceive(b *testing.B) {
	bd := newBind(b, Config{})
	know(b, bd, node(1))
	recv := open(b, bd)
	buf, pkt := newBatch(), message(4, 1400)
	b.SetBytes(int64(len(pkt)))
	b.ReportAllocs()
	for i := range b.N {
		bd.Deliver(node(1), pkt)
		if i%BatchSize == BatchSize-1 {
			if _, err := recv(buf.bufs, buf.sizes, buf.eps); err != nil {
				b.Fatal(err)
			}
		}
	}
}
