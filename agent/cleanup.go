package main

import (
	"fmt"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/router"
)

type cleanupCmd struct{}

func (cleanupCmd) Run(e *env) error {
	if _, err := localapi.Dial(e.socket).Status(e.ctx, -1); err == nil {
		return fmt.Errorf("an agent runs (%s): end it first", e.socket)
	}
	return router.Cleanup(e.ctx)
}
