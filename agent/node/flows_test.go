package node

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writmesh/writ/agent/filter"
	"github.com/writmesh/writ/agent/filter/flowfile"
	"github.com/writmesh/writ/agent/packet/packettest"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/statefile"
)

var (
	nearEnd = netip.MustParseAddrPort("100.64.0.1:40000")
	farEnd  = netip.MustParseAddrPort("100.64.0.2:53")
)

// keeping is what an agent has of flows: a filter, and the file in dir.
func keeping(t *testing.T, dir string) (k *keptFlows, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	k = newKeptFlows(planeConfig{
		dir: dir, identity: key.IdentityPrivateFromSeed([32]byte{1}), log: slog.New(slog.NewTextHandler(log, nil)),
	}, filter.New(filter.Config{}))
	return k, log
}

// swap puts rules in force that have one peer and let in nothing.
func swap(k *keptFlows) filter.Cut {
	cut := k.filter.Swap(filter.Compile(filter.Rules{
		Self:      &acl.Subject{ID: key.NodeID{1}, Name: "self", Tags: []string{"db"}},
		Addresses: []netip.Addr{nearEnd.Addr()},
		Peers:     []filter.Peer{{Subject: &acl.Subject{ID: key.NodeID{2}, Name: "peer", Tags: []string{"web"}}, Addresses: []netip.Addr{farEnd.Addr()}}},
	}, time.Now()))
	k.swapped(cut.Restored)
	return cut
}

// saves counts how often the file is another, each time that it is asked.
type saves struct {
	t    *testing.T
	path string
	last os.FileInfo
}

func (s *saves) want(what string, saved bool) {
	s.t.Helper()
	synctest.Wait()
	info, err := os.Stat(s.path)
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	if got := info != nil && (s.last == nil || !os.SameFile(info, s.last)); got != saved {
		s.t.Errorf("%s: saved %v, want %v", what, got, saved)
	}
	s.last = info
}

func TestFlowsAreSavedWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k, log := keeping(t, dir)
		k.restore()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); k.run(ctx) }()
		file := &saves{t: t, path: filepath.Join(dir, flowsFile)}
		time.Sleep(time.Minute)
		file.want("without rules", false)

		swap(k)
		ask := packettest.UDP(nearEnd, farEnd)
		k.filter.Out(ask)
		synctest.Wait()
		time.Sleep(saveEvery - time.Nanosecond)
		file.want("before its time", false)
		time.Sleep(time.Nanosecond)
		file.want("with a flow that began", true)
		time.Sleep(saveEvery)
		file.want("with nothing new", false)
		k.filter.In(packettest.UDP(farEnd, nearEnd))
		time.Sleep(saveEvery)
		file.want("with a flow that was answered", true)
		for range 4 {
			k.filter.Out(ask)
			time.Sleep(saveEvery)
			file.want("with packets alone", false)
		}
		k.filter.Out(ask)
		time.Sleep(saveEvery)
		file.want("with packets for more than a quarter of a flow's patience", true)
		time.Sleep(3 * time.Minute)
		file.want("with a flow that expired", true)
		time.Sleep(time.Hour)
		file.want("with no flow", false)
		k.filter.Out(ask)
		stop()
		<-ended
		k.end()
		file.want("at the end", true)
		if log.Len() != 0 {
			t.Errorf("logged %q, want nothing", log)
		}
	})
}

func TestFlowsGoFromAgentToAgent(t *testing.T) {
	dir := t.TempDir()
	k, _ := keeping(t, dir)
	k.restore()
	swap(k)
	k.filter.Out(packettest.UDP(nearEnd, farEnd))
	k.filter.In(packettest.UDP(farEnd, nearEnd))
	k.end()
	if ids := k.partners(); len(ids) != 0 {
		t.Errorf("partners of the first agent: %v, want none", ids)
	}

	// An agent that ends before it has rules keeps what there is.
	unborn, _ := keeping(t, dir)
	unborn.restore()
	unborn.end()

	k, log := keeping(t, dir)
	k.restore()
	if cut := swap(k); cut.Restored != 1 {
		t.Errorf("restored %d flows, want 1", cut.Restored)
	}
	if got := k.filter.In(packettest.UDP(farEnd, nearEnd)); got.Reason != filter.Known {
		t.Errorf("an answer after the restart: %v, want %v", got, filter.Known)
	}
	for _, want := range [][]key.NodeID{{{2}}, nil} {
		if ids := k.partners(); !slices.Equal(ids, want) {
			t.Errorf("partners: %v, want %v", ids, want)
		}
	}
	if !strings.Contains(log.String(), "flows=1 over=0") {
		t.Errorf("logged %q, want how many flows go on", log)
	}
	// Of the file's flow and one with a node that is no peer any more, one goes on.
	flows := k.filter.Export(10)
	gone := flows[0]
	gone.Peer = key.NodeID{9}
	if err := flowfile.Write(k.path, k.owner, flowfile.Now(), append(flows, gone)); err != nil {
		t.Fatal(err)
	}
	k, log = keeping(t, dir)
	k.restore()
	swap(k)
	swap(k)
	if got := strings.Count(log.String(), "msg="); got != 1 || !strings.Contains(log.String(), "flows=1 over=1") {
		t.Errorf("logged %q, want one line, with one of two flows", log)
	}
}

func TestFileOfFlowsThatCannotBeUsed(t *testing.T) {
	known := filter.Outbound{Peer: key.NodeID{2}, Proto: acl.UDP, Local: nearEnd, Remote: farEnd, Left: time.Minute}
	now := flowfile.Now()
	for _, tt := range []struct {
		name string
		file func(k *keptFlows) []byte
		want string // in the log
	}{
		{"garbage", func(*keptFlows) []byte { return []byte("garbage") }, "no header"},
		{"empty", func(*keptFlows) []byte { return nil }, "no header"},
		{"another state", func(*keptFlows) []byte { return statefile.Encode("netmap", []byte("{}")) }, "holds"},
		{"another node's", func(k *keptFlows) []byte {
			return statefile.Encode(flowfile.Kind, flowfile.Encode(flowfile.Owner{Node: key.NodeID{7}}, now, []filter.Outbound{known}))
		}, "another node"},
		{"old", func(k *keptFlows) []byte {
			now := now
			now.Wall = now.Wall.Add(-filter.MaxLeft - time.Second)
			return statefile.Encode(flowfile.Kind, flowfile.Encode(k.owner, now, []filter.Outbound{known}))
		}, "longer ago than any flow lives"},
	} {
		dir := t.TempDir()
		k, log := keeping(t, dir)
		if err := os.WriteFile(k.path, tt.file(k), 0o600); err != nil {
			t.Fatal(err)
		}
		k.restore()
		if cut := swap(k); cut.Restored != 0 {
			t.Errorf("%s: restored %d flows, want none", tt.name, cut.Restored)
		}
		if got := k.filter.In(packettest.UDP(farEnd, nearEnd)); got.Action == filter.Pass {
			t.Errorf("%s: a packet that answers nothing: %v, want a drop", tt.name, got)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), tt.want) {
			t.Errorf("%s: logged %q, want one warning with %q", tt.name, log, tt.want)
		}
		// It is replaced, and the next agent has what this one began.
		k.filter.Out(packettest.UDP(nearEnd, farEnd))
		k.end()
		next, log := keeping(t, dir)
		next.restore()
		if cut := swap(next); cut.Restored != 1 || strings.Contains(log.String(), "level=WARN") {
			t.Errorf("%s, replaced: restored %d flows, logged %q, want 1 and no warning", tt.name, cut.Restored, log)
		}
	}
}

// A disk that takes nothing is told of once, and the node goes on.
func TestFlowsThatCannotBeSaved(t *testing.T) {
	k, log := keeping(t, filepath.Join(t.TempDir(), "gone"))
	k.restore()
	swap(k)
	k.save(false)
	k.save(false)
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("logged %q, want one warning", log)
	}
	if err := os.Mkdir(filepath.Dir(k.path), 0o700); err != nil {
		t.Fatal(err)
	}
	k.save(false)
	if _, err := flowfile.Read(k.path, k.owner, flowfile.Now()); err != nil {
		t.Errorf("read what was saved when it could be: %v", err)
	}
}
