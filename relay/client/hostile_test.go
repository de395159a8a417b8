package client_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/tlskey"
	"github.com/writmesh/writ/relay/client"
	"github.com/writmesh/writ/relay/frame"
	"github.com/writmesh/writ/relay/relaytest"
)

// TestHostileRelay: a relay that holds the pinned key and says what it likes.
// The client ends each connection with an error that names the fault; nothing
// of it reaches Receive.
func TestHostileRelay(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: writ-relay/1\r\n\r\n"
	welcome := string(frame.AppendWelcome(nil, 1, time.Unix(1<<32, 0)))
	var src key.NodeID
	for _, c := range []struct {
		name, says, want string
	}{
		{"not HTTP", "SSH-2.0-OpenSSH\r\n", "response"},
		{"not 101", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", `answered "200 OK"`},
		{"other protocol", strings.Replace(switching, "writ-relay/1", "writ-relay/9", 1), "want 101 and writ-relay/1"},
		{"endless header", "HTTP/1.1 101 x\r\nX: " + strings.Repeat("a", 10_000), "response"},
		{"packet before welcome", switching + string(frame.AppendRecv(nil, src, packet(64))), "recv frame before welcome"},
		{"welcome of version 0", switching + "\x21\x00\x00\x00\x0a" + strings.Repeat("\x00", 10), "version 0"},
		{"refusal of kind 0", switching + "\x22\x00\x00\x00\x01\x00", "kind 0"},
		{"a node's frame", switching + welcome + string(frame.AppendPing(nil, 1)), "ping frame: sent by a relay"},
		{"huge length", switching + welcome + "\x23\xff\xff\xff\xff", "body of 4294967295 bytes"},
		{"packet too long", switching + welcome + "\x23\x00\x00\x24\x21", "body of 9249 bytes"},
		{"unknown frame", switching + welcome + "\x3f\x00\x00\x00\x00", "unknown type"},
		{"terminal escapes", switching + welcome + "\x22\x00\x00\x00\x05\x01\x1b[2J", "not printable"},
		{"half a frame", switching + welcome + "\x23\x00\x00", "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			relay := key.NewIdentity()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					raw, err := ln.Accept()
					if err != nil {
						return
					}
					raw.SetDeadline(time.Now().Add(10 * time.Second))
					tc := tls.Server(raw, tlskey.ServerConfig(relay))
					if _, err := http.ReadRequest(bufio.NewReader(tc)); err == nil {
						io.WriteString(tc, c.says)
						tc.CloseWrite()
						io.Copy(io.Discard, tc)
					}
					raw.Close()
				}
			}()
			defer func() {
				ln.Close()
				<-ended
			}()
			cl, err := client.New(client.Config{
				Addr: ln.Addr().String(), Pin: relay.Public(), Identity: key.NewIdentity(),
				Papers:  func() []byte { return bytes.Repeat([]byte("p"), frame.MaxPapers) },
				Receive: func(key.NodeID, []byte) { t.Error("a packet was received") },
			})
			if err != nil {
				t.Fatal(err)
			}
			stop := relaytest.Run(t, cl)
			s := relaytest.WaitFor(t, cl, func(s client.State) bool { return s.LastError != nil })
			stop()
			if !strings.Contains(s.LastError.Error(), c.want) && !(c.name == "half a frame" && errors.Is(s.LastError, io.ErrUnexpectedEOF)) {
				t.Errorf("got %q, want %q", s.LastError, c.want)
			}
		})
	}
}
