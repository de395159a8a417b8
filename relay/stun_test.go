package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/relay/stun"
)

// TestSTUNOnAllItsAddresses: a relay with a STUN port of each family and one more
// answers at each with the address that it was asked from.
func TestSTUNOnAllItsAddresses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &watched{grown: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() {
		cfg := Config{State: t.TempDir(), Listen: "127.0.0.1:0", STUN: []string{":0", "127.0.0.1:0"}, Metrics: "127.0.0.1:0"}
		ended <- run(ctx, cfg, &gatekeeper{}, slog.New(slog.NewTextHandler(log, nil)))
	}()
	where := map[string]string{
		`answers STUN" addr=(0\.0\.0\.0:\d+)`:   "127.0.0.1",
		`answers STUN" addr=(127\.0\.0\.1:\d+)`: "127.0.0.1",
		`answers STUN" addr=(\[::\]:\d+)`:       "::1",
	}
	if pc, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		delete(where, `answers STUN" addr=(\[::\]:\d+)`)
		t.Log("no IPv6 here:", err)
	} else {
		pc.Close()
	}
	for re, host := range where {
		at := netip.MustParseAddrPort(log.find(t, re))
		if at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.MustParseAddr(host), at.Port())
		}
		if got, want := ask(t, at); got != want {
			t.Errorf("%v answers %v, want %v", at, got, want)
		}
	}
	resp, err := http.Get(log.find(t, `url=(\S+)`))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	for _, want := range []string{
		fmt.Sprintf("\nwrit_relay_stun_answered_total %d\n", len(where)),
		"\nwrit_relay_stun_dropped_total{reason=\"source_rate\"} 0\n",
	} {
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("metrics: %v, want %q in %s", err, want, body)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

// ask is the address that the server answers with, and the one it should.
func ask(t *testing.T, at netip.AddrPort) (got, want netip.AddrPort) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	tx := [stun.TxSize]byte{1, 2, 3}
	if _, err := c.Write(stun.Request(tx)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 600)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("ask %v: %v", at, err)
	}
	id, got, err := stun.ParseResponse(b[:n])
	if err != nil || !bytes.Equal(id[:], tx[:]) {
		t.Fatalf("ask %v: answer to %x, %v; want to %x", at, id, err, tx)
	}
	return got, c.LocalAddr().(*net.UDPAddr).AddrPort()
}
