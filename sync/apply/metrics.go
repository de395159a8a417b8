package apply

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/writmesh/writ/sync/report"
)

var (
	refusedCommits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "writ_sync_refused_commits_total",
		Help: "Heads of the branch that were not applied, by the stage that refused them.",
	}, []string{"stage"})
	joinDecisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "writ_sync_join_decisions_total",
		Help: "Join requests decided, by the decision.",
	}, []string{"decision"})
	revisionSeq = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "writ_sync_revision_seq",
		Help: "Sequence number of the newest revision signed.",
	})
	revisionNodes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "writ_sync_revision_nodes",
		Help: "Nodes by whether they enforce the newest revision.",
	}, []string{"enforced"})
)

// Metrics registers sync's metrics.
func Metrics(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{refusedCommits, joinDecisions, revisionSeq, revisionNodes} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func observe(c report.Convergence) {
	revisionSeq.Set(float64(c.Position.Seq))
	revisionNodes.WithLabelValues("yes").Set(float64(c.Enforced))
	revisionNodes.WithLabelValues("no").Set(float64(c.Of - c.Enforced))
}
