package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/wire"
)

// metrics are what a coordinator counts.
type metrics struct {
	registry  *prometheus.Registry
	published prometheus.Counter
	refused   *prometheus.CounterVec
	denied    *prometheus.CounterVec
	acks      *prometheus.CounterVec
	withheld  prometheus.Counter
	updates   prometheus.Counter
	bytes     prometheus.Counter
}

func newMetrics(s *Server) *metrics {
	r := prometheus.NewRegistry()
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "writ_coordinator_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	vec := func(name, label, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "writ_coordinator_" + name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "writ_coordinator_" + name, Help: help}, value))
	}
	m := &metrics{
		registry:  r,
		published: counter("publications_total", "Revisions taken up since start."),
		refused:   vec("refused_total", "kind", "Documents refused since start."),
		denied:    vec("denied_total", "code", "Calls that the caller may not make."),
		acks:      vec("acknowledgements_total", "digest", "Acknowledgements taken up, by whether the digest is right."),
		withheld:  counter("withheld_total", "Passes that could not send a newer revision."),
		updates:   counter("updates_total", "Messages sent to agents and relays."),
		bytes:     counter("update_bytes_total", "Bytes of those messages."),
	}
	gauge("damaged_rows", "Rows set aside at start.", func() float64 { return float64(len(s.reg.Damaged())) })
	gauge("streams", "Streams that are open.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, k := range s.streams {
			n += k
		}
		return float64(n)
	})
	gauge("joins", "Join requests held.", func() float64 { return float64(len(s.reg.Snapshot().Joins(nil))) })
	gauge("nodes", "Nodes that are in.", func() float64 { return float64(s.Status().Total) })
	gauge("nodes_online", "Nodes with a stream here.", func() float64 { return float64(s.Status().Online) })
	gauge("nodes_enforcing", "Nodes that acknowledged the newest revision, with the right digest.", func() float64 {
		return float64(s.Status().Enforced)
	})
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) sent(u *wire.Update) {
	m.updates.Inc()
	m.bytes.Add(float64(proto.Size(u)))
}

// Metrics serves the metrics as Prometheus reads them.
func (s *Server) Metrics() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}
