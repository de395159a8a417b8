package main

import (
	"time"

	"github.com/writmesh/writ/agent/localapi"
)

// endTime is how long an agent may take to end: it closes its connections, and
// takes back what it has in the kernel.
const endTime = 10 * time.Second

type downCmd struct{}

// Run ends the agent and returns when it has ended: whoever starts another, sends
// to a peer or cleans up next finds the machine as it was left.
func (downCmd) Run(e *env) error {
	agent := processBehind(e.socket)
	defer agent.close()
	if err := localapi.Dial(e.socket).Down(e.ctx); err != nil {
		return errNo{err}
	}
	return agent.ended(e.ctx, endTime)
}
