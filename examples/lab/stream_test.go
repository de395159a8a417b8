//go:build lab

package lab

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A server that streams to a client that only listens: nothing that the client's
// node says would make its answers welcome, but what the agent before it left.
func TestStreamSurvivesTheAgent(t *testing.T) {
	for _, tt := range []struct {
		how  string
		goes bool // on
	}{{"stopped", true}, {"killed", true}, {"killed, its flows forgotten", false}} {
		t.Run(tt.how, func(t *testing.T) {
			t.Parallel()
			expected := map[bool]string{true: "the stream goes on", false: "the stream ends"}
			l := New(t, "a server streams, the client's agent is "+tt.how, expected[tt.goes])
			m := l.NewMesh(accounting(aliceMail))
			homeA, homeB := NewRouter(l.Inet(), "home-a", NAT{}), NewRouter(l.Inet(), "home-b", NAT{})
			atAlice, atLedger := NewHost(homeA, "alice"), NewHost(homeB, "ledger")
			server, err := atLedger.ListenTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), echoPort))
			l.must(err)
			l.cleanup(server)
			ended := make(chan error, 1) // how it ended for the server
			go func() {
				c, err := server.Accept()
				if err != nil {
					return
				}
				l.cleanup(c)
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for n := 0; err == nil; n++ {
					<-tick.C
					_, err = fmt.Fprintln(c, n)
				}
				ended <- err
			}()
			ledger, alice := m.Up(atLedger, "tag:ledger"), m.Up(atAlice, aliceMail)
			m.Know(alice, ledger)
			c, err := alice.Connect(ledger, echoPort)
			l.must(err)
			lines := bufio.NewReader(c)
			next := 0
			read := func(n int) error {
				for range n {
					l.must(c.SetReadDeadline(time.Now().Add(within)))
					line, err := lines.ReadString('\n')
					if err != nil {
						return err
					}
					if want := fmt.Sprintln(next); line != want {
						return fmt.Errorf("got line %q, want %q", line, want)
					}
					next++
				}
				return nil
			}
			l.must(read(10))
			if tt.how == "stopped" {
				alice.Stop()
			} else {
				file := filepath.Join(alice.State, "flows.state")
				for { // until a file is there that has the flow
					if info, err := os.Stat(file); err == nil && info.Size() > 240 {
						break
					}
					l.must(read(1))
				}
				alice.Kill()
				if !tt.goes {
					l.must(os.Remove(file))
					_ = os.Remove(file + ".prev") // there need not be one
				}
			}
			began := time.Now()
			alice.Start()
			if !tt.goes {
				select {
				case <-ended:
					l.Got("the connection is reset")
				case <-time.After(within):
					t.Errorf("the stream goes on for %v", within)
				}
				return
			}
			// More than what was on its way when the agent ended.
			if err := read(200); err != nil {
				t.Fatalf("after the restart: %v", err)
			}
			l.Got("200 lines more within %v", time.Since(began).Round(time.Millisecond))
		})
	}
}
