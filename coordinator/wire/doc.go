// Package wire holds the stubs of the coordinator's protocol, which wire.proto
// specifies, and the way between its messages and the verifier's updates.
package wire
