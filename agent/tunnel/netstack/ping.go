package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// pingInterval is how long an echo may stay without its reply before another is
// sent: the first one may be what wakes a tunnel, and is lost if that fails.
const pingInterval = time.Second

// Ping sends ICMP echo requests to addr, one a second, until one is answered or
// ctx ends. It returns the time from the request to its own reply.
func (d *Device) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	addr = addr.Unmap()
	rtt, err := d.ping(ctx, addr)
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", addr, err)
	}
	return rtt, nil
}

func (d *Device) ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	own, ok := d.source(addr)
	if !addr.IsValid() || !ok {
		return 0, syscall.EAFNOSUPPORT
	}
	transport := icmp.ProtocolNumber4
	if addr.Is6() {
		transport = icmp.ProtocolNumber6
	}
	wq := new(waiter.Queue)
	ep, err := d.stack.NewEndpoint(transport, protocolOf(addr), wq)
	if err != nil {
		return 0, cause(err)
	}
	defer ep.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if err := ep.Bind(full(netip.AddrPortFrom(own, 0))); err != nil {
		return 0, cause(err)
	}
	if err := ep.Connect(full(netip.AddrPortFrom(addr, 0))); err != nil {
		return 0, cause(err)
	}

	var cookie [16]byte // tells our replies from anything else with the same ident
	rand.Read(cookie[:])
	var sent []time.Time // by sequence number
	again := time.NewTicker(pingInterval)
	defer again.Stop()
	for {
		request := echo(addr, uint16(len(sent)), cookie[:])
		sent = append(sent, time.Now())
		if _, err := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); err != nil {
			return 0, cause(err)
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-again.C:
				waiting = false
			case <-ready:
				if seq, ok := readReply(ep, addr, cookie[:]); ok && int(seq) < len(sent) {
					return time.Since(sent[seq]), nil
				}
			}
		}
	}
}

// echo is an echo request without ident and checksum, which the stack fills in.
// Both families have the same layout: type, code, checksum, ident, sequence.
func echo(addr netip.Addr, seq uint16, cookie []byte) []byte {
	b := make([]byte, header.ICMPv4MinimumSize, header.ICMPv4MinimumSize+len(cookie))
	b[0] = byte(header.ICMPv4Echo)
	if addr.Is6() {
		b[0] = byte(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[6:], seq)
	return append(b, cookie...)
}

// readReply reads what waits until it finds a reply of ours.
func readReply(ep tcpip.Endpoint, addr netip.Addr, cookie []byte) (seq uint16, ok bool) {
	want := byte(header.ICMPv4EchoReply)
	if addr.Is6() {
		want = byte(header.ICMPv6EchoReply)
	}
	for {
		var b bytes.Buffer
		if _, err := ep.Read(&b, tcpip.ReadOptions{}); err != nil {
			return 0, false // nothing more for now
		}
		if r := b.Bytes(); len(r) >= header.ICMPv4MinimumSize && r[0] == want && bytes.Equal(r[header.ICMPv4MinimumSize:], cookie) {
			return binary.BigEndian.Uint16(r[6:]), true
		}
	}
}
