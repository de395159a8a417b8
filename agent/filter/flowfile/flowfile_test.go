package flowfile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/statefile"
)

var (
	owner = Owner{Network: key.NetworkID(bytes.Repeat([]byte{0xaa}, 32)), Node: key.NodeID(bytes.Repeat([]byte{0xbb}, 32))}
	saved = Instant{Wall: time.UnixMilli(0x019a0000_0000), Boot: 0x1234 * time.Millisecond}

	ssh = filter.Outbound{
		Peer: key.NodeID(bytes.Repeat([]byte{0xcc}, 32)), Proto: acl.TCP, Answered: true, Left: filter.MaxLeft,
		Local: netip.MustParseAddrPort("100.64.0.1:40000"), Remote: netip.MustParseAddrPort("100.64.0.2:22"),
		TCP: [2]filter.Sent{filter.In: {Next: 0x11121314, Ack: 0x15161718, Any: true}, filter.Out: {Next: 0x01020304, Ack: 0x05060708, Any: true, Fin: true}},
	}
	ping = filter.Outbound{
		Peer: key.NodeID(bytes.Repeat([]byte{0xcc}, 32)), Proto: acl.ICMPv6, Echo: true, Left: time.Second,
		Local: netip.MustParseAddrPort("[fd7a::1]:7"), Remote: netip.MustParseAddrPort("[fd7a::2]:0"),
	}
)

// vector is a content as the package comment describes it, put together by hand.
var vector = strings.Join([]string{
	"01",                     // version
	strings.Repeat("aa", 32), // network
	strings.Repeat("bb", 32), // node
	"0000019a00000000",       // saved
	"0000000000001234",       // boot

	strings.Repeat("cc", 32),           // peer
	"00000000000000000000ffff64400001", // 100.64.0.1
	"00000000000000000000ffff64400002", // 100.64.0.2
	"9c40", "0016", "06",               // 40000, 22, TCP
	"1e",                   // answered, sent, its last, received
	"00718680",             // 2 h 4 min
	"01020304", "05060708", // sent
	"11121314", "15161718", // received

	strings.Repeat("cc", 32),
	"fd7a0000000000000000000000000001",
	"fd7a0000000000000000000000000002",
	"0007", "0000", "3a", // identifier 7, ICMPv6
	"01",       // a ping
	"000003e8", // a second
	"0000000000000000", "0000000000000000",
}, "")

func TestFormat(t *testing.T) {
	flows := []filter.Outbound{ssh, ping}
	if got := hex.EncodeToString(Encode(owner, saved, flows)); got != vector {
		t.Errorf("encode:\n got %s\nwant %s", got, vector)
	}
	b, err := hex.DecodeString(vector)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(owner, saved, b); err != nil || !reflect.DeepEqual(got, flows) {
		t.Errorf("decode:\n got %+v, %v\nwant %+v", got, err, flows)
	}
	if got, err := Decode(owner, saved, Encode(owner, saved, nil)); err != nil || len(got) != 0 {
		t.Errorf("no flows: got %v, %v, want none", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const second = headerSize + flowSize // the ping
	for _, tt := range []struct {
		name, want string
		change     func(b []byte) []byte
	}{
		{"nothing", "not version 1", func(b []byte) []byte { return nil }},
		{"another version", "not version 1", func(b []byte) []byte { b[0] = 2; return b }},
		{"half a header", "no whole number of flows", func(b []byte) []byte { return b[:headerSize-1] }},
		{"half a flow", "no whole number of flows", func(b []byte) []byte { return b[:len(b)-1] }},
		{"a byte more", "no whole number of flows", func(b []byte) []byte { return append(b, 0) }},
		{"too many flows", "65537 of them, want 65536 at most", func(b []byte) []byte {
			return append(b[:headerSize], bytes.Repeat(b[headerSize:second], MaxFlows+1)...)
		}},
		{"another network's", "another network", func(b []byte) []byte { b[32] ^= 1; return b }},
		{"another node's", "another node", func(b []byte) []byte { b[64] ^= 1; return b }},
		{"saved before there was time", "at no time", func(b []byte) []byte { b[65] = 0x80; return b }},
		{"saved at an uptime that no machine reaches", "at no time", func(b []byte) []byte { b[73] = 1; return b }},
		{"saved before the machine was started", "before the machine was started", func(b []byte) []byte { b[80]++; return b }},
		{"an unknown flag", "flow 0: unknown flags 0x5e", func(b []byte) []byte { b[headerSize+69] |= 0x40; return b }},
		{"ends of two families", "flow 0: no two ends", func(b []byte) []byte { b[headerSize+32] = 1; return b }},
		{"no address", "flow 1: no two ends", func(b []byte) []byte {
			copy(b[second+48:], make([]byte, 16))
			return b
		}},
		{"more left than a flow can have", "flow 0: 2h4m0.001s left", func(b []byte) []byte { b[headerSize+73]++; return b }},
		{"nothing left", "flow 1: nothing left", func(b []byte) []byte { copy(b[second+70:], make([]byte, 4)); return b }},
		{"numbers without a segment", "flow 0: TCP numbers", func(b []byte) []byte { b[headerSize+69] &^= 0x10; return b }},
		{"a last segment without one", "flow 1: TCP numbers", func(b []byte) []byte { b[second+69] |= 0x20; return b }},
		{"numbers of another protocol", "flow 0: TCP numbers", func(b []byte) []byte { b[headerSize+68] = 17; return b }},
	} {
		b, err := hex.DecodeString(vector)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(owner, saved, tt.change(b)); err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
			t.Errorf("%s: got %v, %v, want an error with %q", tt.name, got, err, tt.want)
		}
	}
}

func TestTimeGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name     string
		wall, up time.Duration // since the file was saved
		boot     bool          // whether the system tells its uptime now
		want     string        // what ssh has left, or the error
	}{
		{"at once", 0, 0, true, "2h4m0s"},
		{"a minute", time.Minute, time.Minute, true, "2h3m0s"},
		{"a minute by the wall clock alone", time.Minute, 0, false, "2h3m0s"},
		{"the wall clock set on", time.Hour, time.Minute, true, "1h4m0s"},
		{"the wall clock set back a little", -30 * time.Second, time.Minute, true, "2h3m0s"},
		{"the wall clock set back a little, and no other", -30 * time.Second, 0, false, "2h4m0s"},
		{"the wall clock set back", -time.Minute - time.Millisecond, time.Minute, true, "in the future"},
		{"just before the end", filter.MaxLeft - time.Millisecond, time.Minute, true, "1ms"},
		{"the end", filter.MaxLeft, time.Minute, true, "none"},
		{"after the end", filter.MaxLeft + time.Millisecond, time.Minute, true, "longer ago than any flow lives"},
		{"after the end by uptime", 0, filter.MaxLeft + time.Millisecond, true, "longer ago than any flow lives"},
		{"years", 20 * 365 * 24 * time.Hour, time.Minute, true, "longer ago than any flow lives"},
		{"another start of the machine", time.Minute, -time.Millisecond, true, "before the machine was started"},
	} {
		now := Instant{Wall: saved.Wall.Add(tt.wall)}
		if tt.boot {
			now.Boot = saved.Boot + tt.up
		}
		flows, err := Decode(owner, now, Encode(owner, saved, []filter.Outbound{ssh}))
		got := "none"
		switch {
		case err != nil:
			got = strings.TrimPrefix(err.Error(), "decode flows: saved ")
		case len(flows) == 1:
			got = flows[0].Left.String()
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	// Of a flow with a second left, half a second later the half is left; of one
	// with less than a millisecond nothing is saved.
	short := ping
	short.Left = time.Millisecond - 1
	flows, err := Decode(owner, Instant{Wall: saved.Wall.Add(500 * time.Millisecond)}, Encode(owner, saved, []filter.Outbound{short, ping}))
	if err != nil || len(flows) != 1 || flows[0].Left != 500*time.Millisecond {
		t.Errorf("half a second later: got %+v, %v, want the ping with 500ms left", flows, err)
	}
}

func TestNowGoesOn(t *testing.T) {
	a := Now()
	b := Now()
	if b.Wall.Before(a.Wall) || b.Boot < a.Boot || time.Since(a.Wall) > time.Minute {
		t.Errorf("got %v and then %v, want now, twice", a, b)
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.state")
	if flows, err := Read(path, owner, saved); !errors.Is(err, fs.ErrNotExist) || flows != nil {
		t.Errorf("no file: got %v, %v, want an error that says so", flows, err)
	}
	for _, want := range [][]filter.Outbound{{ssh}, {ssh, ping}} {
		if err := Write(path, owner, saved, want); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path, owner, saved); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}

	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(whole[:len(whole)-1])
	flows, err := Read(path, owner, saved)
	if damaged := (*statefile.Damaged)(nil); !errors.As(err, &damaged) || !reflect.DeepEqual(flows, []filter.Outbound{ssh}) {
		t.Errorf("damaged: got %v, %v, want the copy before and what is wrong", flows, err)
	}
	if err := os.Remove(path + ".prev"); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"truncated":       whole[:len(whole)-1],
		"of another kind": statefile.Encode("netmap", Encode(owner, saved, nil)),
		"not flows":       statefile.Encode(Kind, []byte("{}")),
		"empty content":   statefile.Encode(Kind, nil),
		"empty":           {},
		"too large":       make([]byte, MaxSize+1),
	} {
		put(b)
		if flows, err := Read(path, owner, saved); err == nil || flows != nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, %v, want an error", name, flows, err)
		}
	}
}

// A file of as many flows as there can be is as large as MaxSize says, or less.
func TestMaxSize(t *testing.T) {
	flows := make([]filter.Outbound, MaxFlows+1)
	for i := range flows {
		flows[i] = ssh
	}
	b := Encode(owner, saved, flows)
	if file := statefile.Encode(Kind, b); len(file) > MaxSize || len(file) < MaxSize-256 {
		t.Errorf("the largest file has %d bytes, want up to %d", len(file), MaxSize)
	}
	if got, err := Decode(owner, saved, b); err != nil || len(got) != MaxFlows {
		t.Errorf("got %d flows, %v, want %d", len(got), err, MaxFlows)
	}
}

// random is a flow that a filter can export.
func random(r *rand.Rand) filter.Outbound {
	fl := filter.Outbound{Proto: acl.Proto(r.IntN(256)), Echo: r.IntN(2) == 0, Answered: r.IntN(2) == 0}
	for i := range fl.Peer {
		fl.Peer[i] = byte(r.Uint32())
	}
	addr := func() netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, byte(r.Uint32()), byte(r.Uint32())}), uint16(r.Uint32()))
	}
	if r.IntN(2) == 0 {
		addr = func() netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.Uint32())}), uint16(r.Uint32()))
		}
	}
	fl.Local, fl.Remote = addr(), addr()
	fl.Left = time.Duration(1+r.Int64N(filter.MaxLeft.Milliseconds())) * time.Millisecond
	if r.IntN(2) == 0 {
		fl.Proto = acl.TCP
		for i := range fl.TCP {
			if r.IntN(3) > 0 {
				fl.TCP[i] = filter.Sent{Next: r.Uint32(), Ack: r.Uint32(), Any: true, Fin: r.IntN(2) == 0}
			}
		}
	}
	return fl
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var want []filter.Outbound
		for range r.IntN(8) {
			want = append(want, random(r))
		}
		if got, err := Decode(owner, saved, Encode(owner, saved, want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n got %+v, %v\nwant %+v", seed, got, err, want)
		}
	}
}

// Whatever is decoded, encoded at the moment it was saved, is the same.
func FuzzDecode(f *testing.F) {
	b, err := hex.DecodeString(vector)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:headerSize])
	f.Add(b[:len(b)-1])
	f.Add([]byte{})
	for seed := range uint64(20) {
		f.Add(Encode(owner, saved, []filter.Outbound{random(rand.New(rand.NewPCG(seed, 2)))}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if flows, err := Decode(owner, saved, b); err != nil && flows != nil {
			t.Errorf("got %v with the error %v, want one of them", flows, err)
		}
		if len(b) >= headerSize { // so that what follows is reached
			b = append(Encode(owner, saved, nil), b[headerSize:]...)
		}
		flows, err := Decode(owner, saved, b)
		if err != nil {
			return
		}
		if again := Encode(owner, saved, flows); !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded:\n got %x\nwant %x", again, b)
		}
		// What is decoded is given to a filter, which takes anything.
		fl := filter.New(filter.Config{})
		fl.Restore(flows)
		fl.Swap(nil)
	})
}

func BenchmarkWrite(b *testing.B) {
	flows := make([]filter.Outbound, MaxFlows)
	for i := range flows {
		flows[i] = random(rand.New(rand.NewPCG(uint64(i), 3)))
	}
	for _, n := range []int{10, MaxFlows} {
		b.Run(fmt.Sprintf("flows=%d/encode", n), func(b *testing.B) {
			for b.Loop() {
				Encode(owner, saved, flows[:n])
			}
		})
		b.Run(fmt.Sprintf("flows=%d/write", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "flows.state")
			for b.Loop() {
				if err := Write(path, owner, saved, flows[:n]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("flows=%d/decode", n), func(b *testing.B) {
			content := Encode(owner, saved, flows[:n])
			for b.Loop() {
				if _, err := Decode(owner, saved, content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
