package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writmesh/writ/relay/stun"
)

var (
	descAnswered = prometheus.NewDesc("writ_relay_stun_answered_total", "STUN requests that an answer was made for.", nil, nil)
	descDropped  = prometheus.NewDesc("writ_relay_stun_dropped_total", "Datagrams to the STUN ports that got no answer, by reason.", []string{"reason"}, nil)
	descErrors   = prometheus.NewDesc("writ_relay_stun_socket_errors_total", "Errors of the STUN sockets.", []string{"operation"}, nil)
)

// A stunCollector publishes a STUN server's counts. Package stun does not do so
// itself, because agents link it for its messages.
type stunCollector struct{ s *stun.Server }

func (stunCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAnswered, descDropped, descErrors} {
		ch <- d
	}
}

func (c stunCollector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, label ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label...)
	}
	n := c.s.Counts()
	count(descAnswered, n.Answered)
	for why, v := range n.Dropped {
		count(descDropped, v, why.String())
	}
	count(descErrors, n.ReadErrors, "read")
	count(descErrors, n.WriteErrors, "write")
}

// noSTUN is the address that means: answer nowhere.
const noSTUN = "none"

// listenSTUN opens the sockets that addrs name: for an address with an IP one,
// for one without a host one of each family that the machine has.
func listenSTUN(ctx context.Context, addrs []string, log *slog.Logger) (open []*net.UDPConn, err error) {
	if len(addrs) == 1 && addrs[0] == noSTUN {
		return nil, nil
	}
	defer func() {
		if err != nil {
			for _, c := range open {
				c.Close()
			}
			open = nil
		}
	}()
	for _, addr := range addrs {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return open, fmt.Errorf("--stun %q: want IP:PORT, :PORT or, alone, %s", addr, noSTUN)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return open, fmt.Errorf("--stun %q: port %q is no number up to 65535", addr, port)
		}
		hosts := []string{host}
		if host == "" {
			hosts = []string{"0.0.0.0", "::"}
		}
		opened, lacking := 0, error(nil)
		for _, h := range hosts {
			ip, err := netip.ParseAddr(h)
			if err != nil {
				return open, fmt.Errorf("--stun %q: %q is no IP address", addr, h)
			}
			network := "udp6" // and nothing of IPv4, which has a socket of its own
			if ip.Is4() {
				network = "udp4"
			}
			c, err := stun.Listen(ctx, network, net.JoinHostPort(h, port))
			if host == "" && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
				lacking = err
				continue
			}
			if err != nil {
				return open, fmt.Errorf("--stun %q: %w; give another address, or --stun %s to answer no STUN", addr, err, noSTUN)
			}
			open, opened = append(open, c), opened+1
			log.Info("answers STUN", "addr", c.LocalAddr())
		}
		if opened == 0 {
			return open, fmt.Errorf("--stun %q: %w", addr, lacking)
		}
	}
	return open, nil
}
