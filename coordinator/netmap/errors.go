package netmap

// Why AdmitPapers refuses a node, beyond papers that do not verify.
var (
	ErrNotReady = errNotReady
	ErrEnded    = errEnded
	ErrExpired  = errExpired
)
