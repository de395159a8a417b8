package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

func printStatus(out io.Writer, st *localapi.Status) {
	if st.State == "up" {
		fmt.Fprintf(out, "%s  %s  %s\n", st.Name, strings.Join(st.Who, " "), addrs(st.Addrs))
	} else {
		fmt.Fprintf(out, "%s: %s\n", st.State, st.Why)
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	if st.Seq != 0 {
		line("revision", "%s (%d, %d)", short(st.Commit), st.Epoch, st.Seq)
	}
	if st.Interface != "" {
		line("interface", "%s", st.Interface)
	}
	switch {
	case st.State != "up":
	case st.Port == 0:
		line("udp", "none: packets go by relay")
	case st.NAT == nil:
		line("udp", "port %d", st.Port)
	default:
		line("udp", "port %d, %s", st.Port, behind(st.NAT.Mapping))
	}
	switch c := st.Coordinator; {
	case c.Addr != "":
		line("coordinator", "%s, connected since %s", c.Addr, c.Since.UTC().Format("2006-01-02 15:04 UTC"))
	case c.Error != "":
		line("coordinator", "none: %s", c.Error)
	default:
		line("coordinator", "none yet")
	}
	for _, r := range st.Relays {
		home := ""
		if r.Home {
			home = ", home"
		}
		line("relay", "%s %s, %s%s", r.Name, r.Addr, r.State, home)
	}
	if st.Proxy != "" {
		line("proxy", "%s (SOCKS5, HTTP)", st.Proxy)
	}
	if h := hostile(&st.Drops); h != "" {
		line("dropped", "%s", h)
	}
	printPeers(out, st.Peers)
	for _, n := range st.Nobodies {
		line("not a peer", "%s: %s", n.Name, n.Why)
	}
	for _, a := range st.Alarms {
		line("alarm", "%s", a.Text)
	}
}

// behind says what a NAT of this mapping behaviour is, in a few words; "agent
// netcheck" has more.
func behind(mapping string) string {
	switch mapping {
	case "no NAT":
		return mapping
	case "unknown":
		return "NAT unknown"
	case "UDP blocked":
		return "no STUN server answers"
	}
	return "behind a NAT with " + mapping + " mapping"
}

func printPeers(out io.Writer, peers []localapi.Peer) {
	if len(peers) == 0 {
		return
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "peer\twho\taddress\tpath\thandshake\treceived\tsent")
	for _, p := range peers {
		shake := "-"
		if !p.Handshake.IsZero() {
			shake = time.Since(p.Handshake).Round(time.Second).String() + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, strings.Join(p.Who, " "), p.Addrs[0], p.Path, shake, size(p.Rx), size(p.Tx))
	}
	w.Flush()
	for _, p := range peers {
		if !p.Direct && p.NotDirect != "" && !p.Handshake.IsZero() {
			fmt.Fprintf(out, "%s is not reached directly: %s\n", p.Name, p.NotDirect)
		}
	}
}

// size is a number of bytes for people.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1000, 0
	for f >= 999.5 && unit < len(units)-1 {
		f, unit = f/1000, unit+1
	}
	return fmt.Sprintf("%.3g %s", f, units[unit])
}

var units = []string{"kB", "MB", "GB", "TB", "PB"}
