package server

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writmesh/writ/relay/frame"
)

// A drop is why a packet or control frame was not forwarded, beside what Boxes
// drop.
type drop int

const (
	dropForeign drop = iota // not a packet that a relay carries
	dropSelf                // addressed to its sender
	dropUnknown             // the destination is not connected
	dropControl             // a pong or a notice for a client that does not read
	dropHere                // a notice to a client that is told of too many
	dropKinds
)

func (d drop) String() string {
	return [...]string{"foreign", "self", "not_connected", "control_full", "here_limited"}[d]
}

// phases are where a stranger's connection can end.
var phases = [...]string{"tls", "request", "key", "hello"}

// counts is what the Server counts, without a lock.
type counts struct {
	accepted   atomic.Uint64
	packets    atomic.Uint64 // received from nodes
	bytes      atomic.Uint64
	dropped    [dropKinds]atomic.Uint64
	turnedAway [turnedAwayKinds]atomic.Uint64
	strangers  [len(phases)]atomic.Uint64
	kinds      [frame.Busy + 1]atomic.Uint64 // refusals
	heres      atomic.Uint64                 // notices that a node has come
	unwished   atomic.Uint64                 // wishes not remembered: maxWishes
}

func (c *counts) refused(k frame.Kind) {
	if int(k) < len(c.kinds) {
		c.kinds[k].Add(1)
	} else {
		c.kinds[0].Add(1)
	}
}

func (c *counts) stranger(phase string) {
	for i, p := range phases {
		if p == phase {
			c.strangers[i].Add(1)
		}
	}
}

var (
	descClients  = prometheus.NewDesc("writ_relay_clients", "Nodes connected and admitted.", nil, nil)
	descQueued   = prometheus.NewDesc("writ_relay_queued_bytes", "Memory of the packets that wait for a client.", nil, nil)
	descAccepted = prometheus.NewDesc("writ_relay_accepted_connections_total", "TCP connections accepted.", nil, nil)
	descTurned   = prometheus.NewDesc("writ_relay_turned_away_connections_total", "Connections closed at once, by the limit they met.", []string{"limit"}, nil)
	descStranger = prometheus.NewDesc("writ_relay_failed_connections_total", "Connections that ended before the node was judged, by phase.", []string{"phase"}, nil)
	descRefused  = prometheus.NewDesc("writ_relay_refused_total", "Nodes refused or disconnected, by the kind they were told.", []string{"kind"}, nil)
	descPackets  = prometheus.NewDesc("writ_relay_packets_total", "Packets received from nodes.", nil, nil)
	descBytes    = prometheus.NewDesc("writ_relay_bytes_total", "Bytes of packets received from nodes.", nil, nil)
	descWishes   = prometheus.NewDesc("writ_relay_wishes", "Notices that the relay owes to clients when a node connects.", nil, nil)
	descUnwished = prometheus.NewDesc("writ_relay_forgotten_wishes_total", "Notices that the relay will not give because it owed too many.", nil, nil)
	descHeres    = prometheus.NewDesc("writ_relay_here_notices_total", "Clients told that a node they were sending to has connected.", nil, nil)
	descDropped  = prometheus.NewDesc("writ_relay_dropped_total", "Packets and notices not forwarded, by reason.", []string{"reason"}, nil)
)

// A collector publishes a Server's counts.
type collector struct{ s *Server }

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descClients, descQueued, descAccepted, descTurned, descStranger, descRefused, descPackets, descBytes, descDropped,
		descWishes, descUnwished, descHeres} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s, n := c.s, &c.s.counts
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	count := func(d *prometheus.Desc, v uint64, label ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label...)
	}
	gauge(descClients, float64(s.table.len()))
	gauge(descQueued, float64(s.budget.Used()))
	gauge(descWishes, float64(s.table.wishes.Load()))
	count(descUnwished, n.unwished.Load())
	count(descHeres, n.heres.Load())
	count(descAccepted, n.accepted.Load())
	count(descPackets, n.packets.Load())
	count(descBytes, n.bytes.Load())
	for i := range turnedAwayKinds {
		count(descTurned, n.turnedAway[i].Load(), i.String())
	}
	for i, p := range phases {
		count(descStranger, n.strangers[i].Load(), p)
	}
	for k := frame.NotReady; int(k) < len(n.kinds); k++ {
		count(descRefused, n.kinds[k].Load(), k.String())
	}
	count(descRefused, n.kinds[0].Load(), "other")
	for i := range dropKinds {
		count(descDropped, n.dropped[i].Load(), i.String())
	}
	count(descDropped, s.queues.Full.Load(), "queue_full")
	count(descDropped, s.queues.Old.Load(), "queue_old")
	count(descDropped, s.queues.Late.Load(), "closing")
}
