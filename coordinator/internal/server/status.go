package server

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/internal/state"
)

// A Status is what a coordinator knows of its network. Acknowledgements in it
// were checked against the nodes' identity keys.
type Status struct {
	Network   string         `json:"network"`
	Version   string         `json:"version,omitempty"`
	Commit    string         `json:"commit,omitempty"` // of the newest revision
	Epoch     int64          `json:"epoch,omitempty"`
	Seq       int64          `json:"seq,omitempty"`
	Manifest  string         `json:"manifest,omitempty"`
	Issued    time.Time      `json:"issued,omitzero"`
	Revisions []RevisionAcks `json:"revisions,omitempty"` // the newest first; those that a node is at
	Nodes     []NodeStatus   `json:"nodes"`               // by name; those that are in
	Total     int            `json:"total"`
	Online    int            `json:"online"`
	Enforced  int            `json:"enforced"` // the newest revision, with the right digest
	Joins     int            `json:"joins"`    // waiting
	Ended     int            `json:"ended"`    // nodes that are out
	Damaged   []string       `json:"damaged,omitempty"`
}

// RevisionAcks is how far a revision has come.
type RevisionAcks struct {
	Commit   string `json:"commit"`
	Epoch    int64  `json:"epoch"`
	Seq      int64  `json:"seq"`
	Enforced int    `json:"enforced"` // nodes that acknowledged this very revision
	Total    int    `json:"total"`
}

// A NodeStatus is what is known of a node.
type NodeStatus struct {
	Name         string    `json:"name"`
	ID           string    `json:"id"`
	Principals   []string  `json:"principals"`
	Addresses    []string  `json:"addresses"`
	Online       bool      `json:"online"`
	OfflineSince time.Time `json:"offlineSince,omitzero"` // zero while online, and where it was not seen
	Version      string    `json:"version,omitempty"`
	Commit       string    `json:"commit,omitempty"` // acknowledged; empty where the revision is not known here
	Epoch        int64     `json:"epoch,omitempty"`
	Seq          int64     `json:"seq,omitempty"`
	Digest       string    `json:"digest,omitempty"` // right, wrong or unknown
	Enforces     bool      `json:"enforces"`         // the newest revision
}

// Status is what is known now.
func (s *Server) Status() Status {
	snap := s.reg.Snapshot()
	st := Status{Network: s.reg.Network().String(), Nodes: []NodeStatus{}}
	now := s.now()
	newest := snap.Newest(nil)
	if newest != nil {
		m := newest.Manifest
		st.Commit, st.Epoch, st.Seq = string(m.Commit), m.Epoch, m.Seq
		st.Manifest, st.Issued = m.Hash().String(), m.Issued
	}
	at := map[string]int{} // position → nodes that acknowledged it
	commits := map[string]string{}
	revisions := snap.Revisions()
	for _, r := range revisions {
		commits[r.Manifest.Position.String()] = string(r.Manifest.Commit)
	}
	for _, n := range snap.Nodes(nil) {
		a := n.Admission
		if n.Ended != "" {
			st.Ended++
			continue
		}
		if !a.Expires.IsZero() && !now.Before(a.Expires) {
			continue
		}
		ns := NodeStatus{Name: a.Name, ID: n.ID.String()}
		for _, p := range a.Principals() {
			ns.Principals = append(ns.Principals, p.String())
		}
		for _, ip := range a.Addresses() {
			ns.Addresses = append(ns.Addresses, ip.String())
		}
		if p, ok := snap.Presence(nil, n.ID); ok {
			ns.Online, ns.OfflineSince, ns.Version = p.Streams > 0, p.OfflineSince, p.Version
			if p.Ack != nil {
				pos := p.Ack.Position
				at[pos.String()]++
				ns.Commit, ns.Epoch, ns.Seq, ns.Digest = commits[pos.String()], pos.Epoch, pos.Seq, p.Digest.String()
				ns.Enforces = newest != nil && p.Ack.Manifest == newest.Manifest.Hash() && p.Digest == state.DigestRight
			}
		}
		if ns.Online {
			st.Online++
		}
		if ns.Enforces {
			st.Enforced++
		}
		st.Nodes = append(st.Nodes, ns)
	}
	slices.SortFunc(st.Nodes, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	st.Total = len(st.Nodes)
	for i, r := range slices.Backward(revisions) {
		m := r.Manifest
		n := at[m.Position.String()]
		if newestOne := i == len(revisions)-1; newestOne {
			n = st.Enforced
		} else if n == 0 {
			continue
		}
		st.Revisions = append(st.Revisions, RevisionAcks{string(m.Commit), m.Epoch, m.Seq, n, st.Total})
	}
	for _, j := range snap.Joins(nil) {
		if j.Refused == "" {
			st.Joins++
		}
	}
	for _, d := range s.reg.Damaged() {
		st.Damaged = append(st.Damaged, d.Error())
	}
	return st
}

// Converged reports whether there is a revision and every node enforces it.
func (s Status) Converged() bool { return s.Commit != "" && s.Enforced == s.Total }

// Line is the convergence of the newest revision, for people.
func (s Status) Line() string {
	if s.Commit == "" {
		return "no revision is published"
	}
	out := fmt.Sprintf("revision %s: enforced on %d of %d nodes", short(s.Commit), s.Enforced, s.Total)
	var missing []string
	for _, n := range s.Nodes {
		if !n.Enforces {
			missing = append(missing, n.Name+" ("+n.why(s)+")")
		}
	}
	const most = 10
	if more := len(missing) - most; more > 0 {
		missing = append(missing[:most], fmt.Sprintf("and %d more", more))
	}
	if len(missing) > 0 {
		out += "; missing: " + strings.Join(missing, ", ")
	}
	return out
}

func (n NodeStatus) why(s Status) string {
	switch {
	case n.Online && n.Epoch == s.Epoch && n.Seq == s.Seq && n.Digest == state.DigestWrong.String():
		return "online, enforces something else"
	case n.Online && n.Commit != "":
		return "online, at revision " + short(n.Commit)
	case n.Online:
		return "online"
	case n.OfflineSince.IsZero():
		return "not seen since this coordinator started"
	default:
		return "offline since " + n.OfflineSince.UTC().Format("2006-01-02 15:04 UTC")
	}
}

func short(commit string) string { return commit[:min(7, len(commit))] }

// Print writes the status for people.
func (s Status) Print(w io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "network %s\n", s.Network)
	width := len("NODE")
	for _, n := range s.Nodes {
		width = max(width, len(n.Name))
	}
	if len(s.Nodes) > 0 {
		fmt.Fprintf(b, "\n%-*s  %-15s  %-8s  %-20s  %s\n", width, "NODE", "ADDRESS", "REVISION", "SEEN", "PRINCIPALS")
	}
	for _, n := range s.Nodes {
		seen := "online"
		switch {
		case n.Online:
		case n.OfflineSince.IsZero():
			seen = "not yet"
		default:
			seen = n.OfflineSince.UTC().Format("2006-01-02 15:04 UTC")
		}
		at := "-"
		switch {
		case n.Digest == state.DigestWrong.String():
			at = "WRONG"
		case n.Commit != "":
			at = short(n.Commit)
		case n.Seq != 0:
			at = "unknown"
		}
		address := ""
		if len(n.Addresses) > 0 {
			address = n.Addresses[0]
		}
		fmt.Fprintf(b, "%-*s  %-15s  %-8s  %-20s  %s\n", width, n.Name, address, at, seen, strings.Join(n.Principals, " "))
	}
	fmt.Fprintf(b, "\n%s\n", s.Line())
	for i, r := range s.Revisions {
		if i > 0 {
			fmt.Fprintf(b, "revision %s: still enforced on %d of %d nodes\n", short(r.Commit), r.Enforced, r.Total)
		}
	}
	if s.Joins > 0 {
		fmt.Fprintf(b, "%d join requests wait for sync\n", s.Joins)
	}
	for _, d := range s.Damaged {
		fmt.Fprintf(b, "damaged: %s\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Watch is woken when the status changes, other than by time.
func (s *Server) Watch() *state.Watch {
	w, snap := state.NewWatch(), s.reg.Snapshot()
	snap.Newest(w)
	snap.Nodes(w)
	snap.Joins(w)
	snap.PresenceSince(w, 0)
	return w
}
