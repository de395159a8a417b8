package stun

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkAnswer makes answers, without a socket.
func BenchmarkAnswer(b *testing.B) {
	for _, from := range []string{"192.0.2.1:4242", "[2001:db8::1]:4242"} {
		b.Run(from[:4], func(b *testing.B) {
			var a Answerer
			request, to := Request([TxSize]byte{}), netip.MustParseAddrPort(from)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Answer(request, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServe is one client on loopback that waits for each answer; its own
// half is in the figure.
func BenchmarkServe(b *testing.B) {
	s, err := New(Config{SourceRate: 1e8, SourceBurst: 1e8, Rate: 1e8, Burst: 1e8})
	if err != nil {
		b.Fatal(err)
	}
	pc, err := Listen(b.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc) }()
	defer func() {
		cancel()
		<-done
	}()
	c, err := net.Dial("udp4", pc.LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, buf := Request([TxSize]byte{}), make([]byte, 600)
	c.SetDeadline(time.Now().Add(time.Minute))
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
