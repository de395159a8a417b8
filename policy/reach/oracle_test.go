package reach_test

import (
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func sel(s string) acl.Selector {
	x, err := acl.ParseSelector(s)
	if err != nil {
		panic(err)
	}
	return x
}

func mustPorts(s string) acl.Ports {
	p, err := acl.ParsePorts(s)
	if err != nil {
		panic(err)
	}
	return p
}
