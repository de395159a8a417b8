package stun

import "github.com/prometheus/client_golang/prometheus"

var (
	descAnswered = prometheus.NewDesc("writ_relay_stun_answered_total", "STUN requests that an answer was made for.", nil, nil)
	descDropped  = prometheus.NewDesc("writ_relay_stun_dropped_total", "Datagrams to the STUN ports that got no answer, by reason.", []string{"reason"}, nil)
	descErrors   = prometheus.NewDesc("writ_relay_stun_socket_errors_total", "Errors of the STUN sockets.", []string{"operation"}, nil)
)

// A collector publishes a Server's counts.
type collector struct{ s *Server }

func (collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descAnswered
	ch <- descDropped
	ch <- descErrors
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, label ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label...)
	}
	count(descAnswered, c.s.answered.Load())
	for d := range drops {
		count(descDropped, c.s.dropped[d].Load(), d.String())
	}
	count(descErrors, c.s.readErrors.Load(), "read")
	count(descErrors, c.s.writeErrors.Load(), "write")
}
