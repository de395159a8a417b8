//go:build lab

package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/writmesh/writ/agent/bind"
	"github.com/writmesh/writ/agent/relays"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/keyfile"
	"github.com/writmesh/writ/coordinator/netmap/netmaptest"
)

// An Intruder has all the keys of a node that is admitted, and obeys nothing: it
// is WireGuard without a filter, by which the test sends whatever packets it
// likes to one victim. Nobody but the victim can stop them.
type Intruder struct {
	node *netmaptest.Node
	tun  *tuntest.ChannelTUN
}

// Intrude connects a pinned node to the relay and sets its WireGuard up for the
// victim.
func (m *Mesh) Intrude(n *netmaptest.Node, at *Host, victim *Agent) *Intruder {
	m.l.t.Helper()
	wg, err := keyfile.WG(filepath.Join(victim.State, "wireguard.key"))
	m.l.must(err)
	s, err := victim.Status(m.l.t.Context(), -1)
	m.l.must(err)
	id, err := key.ParseNodeID(s.Node)
	m.l.must(err)

	var b *bind.Bind
	up := make(chan struct{}, 1)
	carrier := relays.New(relays.Config{
		Identity: n.Key, Papers: func() []byte { return n.Papers.Admission }, Dial: at.Dial,
		Receive: func(src key.NodeID, packet []byte) { b.Deliver(src, packet) },
		Home:    func([]string) {},
		News:    func() {},
		Up: func() {
			select {
			case up <- struct{}{}:
			default:
			}
		},
		Log: slog.New(slog.DiscardHandler),
	})
	m.l.cleanup(closer(func() error { carrier.Close(); return nil }))
	b, err = bind.New(bind.Config{Sender: carrier})
	m.l.must(err)
	carrier.Set(m.policy.Relays, map[key.NodeID][]string{id: {m.policy.Relays[0].Name}})
	select {
	case <-up:
	case <-time.After(within):
		m.l.t.Fatalf("the intruder %s is not connected to the relay within %s", n.Admission.Name, within)
	}

	i := &Intruder{node: n, tun: tuntest.NewChannelTUN()}
	dev := device.NewDevice(i.tun.TUN(), struct{ conn.Bind }{b}, device.NewLogger(device.LogLevelSilent, ""))
	m.l.cleanup(closer(func() error { dev.Close(); return nil }))
	m.l.must(dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		n.WG.Hex(), wg.Public().Hex(), id)))
	m.l.must(dev.Up())
	return i
}

// Address is the IPv4 address of the node whose keys the intruder has.
func (i *Intruder) Address() netip.Addr { return i.node.Admission.IPv4 }

// Send sends an IP packet to the victim.
func (i *Intruder) Send(packets ...[]byte) error {
	for _, p := range packets {
		select {
		case i.tun.Outbound <- p:
		case <-time.After(within):
			return errors.New("WireGuard takes no packet")
		}
	}
	return nil
}

// Receive waits for a packet from the victim that ok wants.
func (i *Intruder) Receive(ok func(pkt []byte) bool) error {
	limit := time.After(within)
	for {
		select {
		case p := <-i.tun.Inbound:
			if ok(p) {
				return nil
			}
		case <-limit:
			return fmt.Errorf("no answer within %s", within)
		}
	}
}

// closer is a function that takes down what a test built.
type closer func() error

func (c closer) Close() error { return c() }
