package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

type pingCmd struct {
	Peer  string `arg:"" help:"A peer's name or mesh address."`
	Count int    `short:"c" default:"0" placeholder:"N" help:"Send N probes (default: until one takes a direct path, ten at most)."`
	ICMP  bool   `name:"icmp" help:"With --userspace, send an ICMP echo through the tunnel, which a rule must allow; with a network interface, the system's ping does that."`
	JSON  bool   `name:"json" help:"Print each answer as a line of JSON."`
}

const (
	// maxPings is how many probes are sent while the path is not direct.
	maxPings = 10
	// pingEvery is the time from probe to probe. An upgrade is noticed by the next
	// answer, so that they are close while one can be expected.
	pingEvery     = time.Second
	pingEverySoon = 100 * time.Millisecond
	soon          = 5 // probes
)

func (p *pingCmd) Run(e *env) error {
	c := localapi.Dial(e.socket)
	send := c.Ping
	if p.ICMP {
		send = c.Echo
	}
	began := time.Now()
	var last *localapi.Pong
	var lost error
	for n := 0; ; n++ {
		pong, err := send(e.ctx, p.Peer)
		if err != nil {
			lost = err
		} else {
			p.print(e, pong, last, time.Since(began))
			last = pong
		}
		switch {
		case e.ctx.Err() != nil, p.Count > 0 && n+1 == p.Count, p.Count == 0 && n+1 == maxPings:
			return p.end(e, last, lost)
		case p.Count == 0 && (err != nil || pong.Direct || p.ICMP):
			return p.end(e, last, lost)
		}
		gap := pingEvery
		if p.Count == 0 && n < soon {
			gap = pingEverySoon
		}
		if pause(e.ctx, gap) != nil {
			return p.end(e, last, lost)
		}
	}
}

// print prints one answer, and the moment when the path has become direct.
func (p *pingCmd) print(e *env, pong, before *localapi.Pong, after time.Duration) {
	if p.JSON {
		json.NewEncoder(e.stdout).Encode(pong)
		return
	}
	fmt.Fprintf(e.stdout, "pong from %s (%s) via %s in %s\n", pong.Name, pong.Addr, pong.Path, pong.RTT.Round(10*time.Microsecond))
	if pong.Direct && before != nil && !before.Direct {
		fmt.Fprintf(e.stdout, "direct after %s\n", after.Round(10*time.Millisecond))
	}
}

// end is the answer as a whole.
func (p *pingCmd) end(e *env, last *localapi.Pong, lost error) error {
	if last == nil && lost != nil {
		return errNo{lost}
	}
	if last != nil && !last.Direct && last.NotDirect != "" && !p.JSON {
		fmt.Fprintln(e.stdout, wrap("not direct: "+last.NotDirect))
	}
	return nil
}

// pause waits, or returns why it did not.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

type netcheckCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (n *netcheckCmd) Run(e *env) error {
	report, err := localapi.Dial(e.socket).Netcheck(e.ctx)
	if err != nil {
		return err
	}
	if n.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	for _, line := range report.Words() {
		fmt.Fprintln(e.stdout, wrap(line))
	}
	return nil
}
