//go:build lab && bench

package lab

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The yardstick: wireguard-go as it is, its own program, of the version that this
// module is built with, told its two peers by its own socket.

// plainWireGuard builds it.
func plainWireGuard(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("build wireguard-go: %v\n%s", err, out)
	}
	return program
}

// A plainNode is one end.
type plainNode struct {
	*Program
	name string
	key  *ecdh.PrivateKey
	at   netip.AddrPort // outside
	addr netip.Addr     // inside
}

// plainPair starts wireguard-go on two hosts.
func (l *Lab) plainPair(program string, a, b *Host, atA, atB netip.Addr) (_, _ *plainNode) {
	l.t.Helper()
	const port = 51820
	nodes := [2]*plainNode{}
	for i, h := range []*Host{a, b} {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		l.must(err)
		n := &plainNode{
			name: fmt.Sprintf("wg%d-%d", os.Getpid()%1e6, i), key: k,
			at:   netip.AddrPortFrom([]netip.Addr{atA, atB}[i], port),
			addr: netip.AddrFrom4([4]byte{10, 98, 0, byte(i + 1)}),
		}
		n.Program = h.program("wireguard-go on "+h.Name, "", "-f", n.name)
		n.args[0] = program
		n.Start()
		l.t.Cleanup(func() { os.Remove(n.socket()) }) // gone unless the program was killed
		nodes[i] = n
	}
	for i, n := range nodes {
		peer := nodes[1-i]
		n.configure(l, fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s/32\n",
			hex.EncodeToString(n.key.Bytes()), port, hex.EncodeToString(peer.key.PublicKey().Bytes()), peer.at, peer.addr))
		l.must(n.host.IP("addr add "+n.addr.String()+"/24 dev "+n.name, "link set "+n.name+" up"))
	}
	return nodes[0], nodes[1]
}

func (n *plainNode) socket() string { return "/var/run/wireguard/" + n.name + ".sock" }

// configure sets what wg(8) would.
func (n *plainNode) configure(l *Lab, settings string) {
	l.t.Helper()
	limit := time.After(within)
	tick := time.NewTicker(10 * time.Millisecond) // until it listens
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", n.socket())
		if err != nil {
			select {
			case <-tick.C:
				continue
			case <-limit:
				l.t.Fatal(err)
			}
		}
		defer c.Close()
		_, err = io.WriteString(c, "set=1\n"+settings+"\n")
		l.must(err)
		answer, err := bufio.NewReader(c).ReadString('\n')
		l.must(err)
		if strings.TrimSpace(answer) != "errno=0" {
			l.t.Fatalf("wireguard-go: %s to\n%s", answer, settings)
		}
		return
	}
}

// mtu changes the interface's.
func (n *plainNode) mtu(l *Lab, mtu int) {
	l.t.Helper()
	l.must(n.host.IP(fmt.Sprintf("link set %s mtu %d", n.name, mtu)))
}
