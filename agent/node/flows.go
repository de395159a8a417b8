package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/agent/filter/flowfile"
	"github.com/writmesh/writ/coordinator/key"
)

const (
	// flowsFile is the name of the file in the state directory.
	flowsFile = "flows.state"

	// saveEvery is what an agent that is killed forgets at most: a connection
	// that began since is reset after it. A save of a full table takes 40 ms of
	// a processor.
	saveEvery = 10 * time.Second

	// maxPartners is with how many peers a session begins at the start, for the
	// flows that go on: some milliseconds and 35 kB each. The others' wait for
	// the first packet of either side.
	maxPartners = 64
)

// keptFlows are the flows that the node began, in a file for the agent that
// comes after this one: the kernel's connections outlive both.
type keptFlows struct {
	path   string
	owner  flowfile.Owner
	filter *filter.Filter
	log    *slog.Logger

	// set by restore, before the first swap
	offered int          // flows that the filter was given
	with    []key.NodeID // the peers of flows that were answered, some of them

	begun chan struct{} // closed when rules are in force, and there is something to save
	once  sync.Once     // closes begun

	// owned by run, and when it has ended by end
	saved   []filter.Outbound
	at      flowfile.Instant // of saved
	written bool             // the file holds saved
	failing bool             // it could not be written, which was told
}

func newKeptFlows(cfg planeConfig, f *filter.Filter) *keptFlows {
	return &keptFlows{
		path:   filepath.Join(cfg.dir, flowsFile),
		owner:  flowfile.Owner{Network: cfg.network, Node: cfg.identity.Public().NodeID()},
		filter: f, log: cfg.log, begun: make(chan struct{}),
	}
}

// restore gives the filter what the agent before this one left. A file that
// cannot be used is as none: its connections end, and others begin.
func (k *keptFlows) restore() {
	flows, err := flowfile.Read(k.path, k.owner, flowfile.Now())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("flows of before the restart are not all known", "err", err, "known", len(flows))
	}
	k.offered = len(flows)
	for i := range flows {
		if id := flows[i].Peer; flows[i].Answered && len(k.with) < maxPartners && !slices.Contains(k.with, id) {
			k.with = append(k.with, id)
		}
	}
	k.filter.Restore(flows)
}

// partners are, once, peers whose flows may go on: they hold sessions of which
// this agent knows nothing, and what they send is lost until there is another.
func (k *keptFlows) partners() (ids []key.NodeID) {
	ids, k.with = k.with, nil
	return ids
}

// swapped is told at every swap of the filter how many of the flows it took up,
// of which it can at the first.
func (k *keptFlows) swapped(taken int) {
	k.once.Do(func() {
		if k.offered > 0 {
			k.log.Info("flows of before the restart go on", "flows", taken, "over", k.offered-taken)
		}
		close(k.begun)
	})
}

// run saves the flows now and then, if they changed, until ctx ends.
func (k *keptFlows) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-k.begun:
	}
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.save(false)
		}
	}
}

// end saves the flows as this agent's last word. An agent that never had rules
// leaves the file as it is: it knows of no flows, and there may be some.
func (k *keptFlows) end() {
	select {
	case <-k.begun:
		k.save(true)
	default:
	}
}

// save replaces the file, if it has to be or the flows are others.
func (k *keptFlows) save(always bool) {
	now, flows := flowfile.Now(), k.filter.Export(flowfile.MaxFlows)
	if !always && k.written && !othersThan(k.saved, k.at, flows, now) {
		return
	}
	err := flowfile.Write(k.path, k.owner, now, flows)
	if err != nil && !k.failing {
		k.log.Warn("flows are not kept for the next agent", "err", err)
	}
	k.saved, k.at, k.written, k.failing = flows, now, err == nil, err != nil
}

// othersThan reports whether flows, exported now, are others than before or live
// so much longer that those before would end too soon: by more than a quarter of
// what they have. Packets alone do not change a file: each would.
func othersThan(before []filter.Outbound, at flowfile.Instant, flows []filter.Outbound, now flowfile.Instant) bool {
	if len(before) != len(flows) {
		return true
	}
	since := max(now.Wall.Sub(at.Wall), now.Boot-at.Boot)
	for i := range flows {
		was, is := &before[i], &flows[i]
		same := was.Peer == is.Peer && was.Proto == is.Proto && was.Echo == is.Echo &&
			was.Local == is.Local && was.Remote == is.Remote && was.Answered == is.Answered
		if !same || is.Left-(was.Left-since) > is.Left/4 {
			return true
		}
	}
	return false
}
