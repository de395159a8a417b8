//go:build lab

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// lastLines is how many lines of each program's log a failure shows.
const lastLines = 60

// diagnose prints what a person needs who asks why a scenario failed.
func (l *Lab) diagnose() {
	for _, a := range l.agents {
		l.t.Logf("==== %s says of itself:\n%s", a.Host.Name, a.account())
	}
	for _, p := range l.programs {
		l.t.Logf("==== the last lines of %s:\n%s", p.Name, p.log.last(lastLines))
	}
	for _, r := range l.routers {
		rules, err := r.run("", "nft", "list", "ruleset")
		if err != nil {
			rules = err.Error()
		}
		l.t.Logf("==== the router %s:\n%s\n%s", r.Name, rules, r.text("nf_conntrack"))
	}
	if l.inet == nil {
		return
	}
	if rules, err := l.inet.run("", "nft", "list", "ruleset"); err == nil {
		l.t.Logf("==== the Internet:\n%s", rules)
	}
}

// account is what an agent answers to status --json.
func (a *Agent) account() string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s, err := a.Status(ctx, -1)
	if err != nil {
		return err.Error()
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Sprintf("%+v: %v", s, err)
	}
	return string(b)
}
