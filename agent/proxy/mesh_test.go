package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/writmesh/writ/agent/tunnel/netstack"
)

// mesh is two stacks whose packets reach each other, without a tunnel.
func mesh(t *testing.T) (a, b *netstack.Device) {
	t.Helper()
	var devs [2]*netstack.Device
	for i := range devs {
		var err error
		devs[i], err = netstack.New(netstack.Config{
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(1 + i)})},
			MTU:   1280,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var running sync.WaitGroup
	for i := range devs {
		running.Go(func() {
			bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
			for {
				n, err := devs[i].Read(bufs, sizes, 0)
				if err != nil {
					return
				}
				if n == 1 {
					devs[1-i].Write([][]byte{bufs[0][:sizes[0]]}, 0)
				}
			}
		})
	}
	t.Cleanup(func() {
		devs[0].Close()
		devs[1].Close()
		running.Wait()
	})
	return devs[0], devs[1]
}

// The whole way:
//
//	client ─ loopback ─► Server ─ stack a ─ mesh ─ stack b ─► Forwarder ─ loopback ─► server
func wholeWay(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	a, b := mesh(t)
	l := newLab(t, a.Dial)
	local := listen(t)
	ln, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	f := NewForwarder(nil, nil)
	start(t, func(ctx context.Context) error {
		return f.Serve(ctx, ln, netip.MustParseAddrPort(local.Addr().String()))
	})
	client = socksConnect(t, l, "100.64.0.2", 80)
	return client, acceptOne(t, local)
}

func TestWholeWay(t *testing.T) {
	t.Run("half close", func(t *testing.T) {
		client, server := wholeWay(t)
		data := make([]byte, 1<<20)
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() {
			client.Write(data)
			client.CloseWrite()
		})
		got, err := io.ReadAll(server)
		if err != nil || len(got) != len(data) {
			t.Fatalf("server read %d bytes, %v; want %d", len(got), err, len(data))
		}
		server.Write([]byte("done"))
		server.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "done" {
			t.Errorf("client read %q, %v; want %q", got, err, "done")
		}
	})
	for _, half := range []bool{false, true} {
		for _, fromServer := range []bool{false, true} {
			t.Run("reset", func(t *testing.T) {
				client, server := wholeWay(t)
				cut, other := client, server
				if fromServer {
					cut, other = server, client
				}
				if half {
					other.CloseWrite()
					if _, err := cut.Read(make([]byte, 1)); err != io.EOF {
						t.Fatalf("got %v, want %v", err, io.EOF)
					}
				}
				cut.SetLinger(0)
				cut.Close()
				expectReset(t, "the other side", other)
			})
		}
	}
}

// The mesh in between resets: here the stack of the server's node ends.
func TestCutInBetween(t *testing.T) {
	a, b := mesh(t)
	l := newLab(t, a.Dial)
	ln, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	client := socksConnect(t, l, "100.64.0.2", 80)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client.CloseWrite() // nobody reads the client's side of the proxy any more
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("got %v, want %v", err, io.EOF)
	}
	b.Close()
	expectReset(t, "client", client)
}

func TestClosedPortIsRefused(t *testing.T) {
	a, _ := mesh(t)
	l := newLab(t, a.Dial)
	c := dial(t, l.addr)
	exchange(t, c, []byte{5, 1, 0}, []byte{5, 0})
	exchange(t, c, []byte{5, 1, 0, 1, 100, 64, 0, 2, 0, 81}, []byte{5, replyRefused, 0, 1, 0, 0, 0, 0, 0, 0})
}
