package netmap

import "errors"

// Why a node, an update or its papers are refused, beyond documents that do not
// verify.
var (
	ErrNotReady = errors.New("no root document is held yet")
	ErrEnded    = errors.New("the node is on the ended list")
	ErrExpired  = errors.New("the session has ended")
)
