// Package disco is the protocol by which two nodes find a direct path to each
// other.
package disco

// MaxEndpoints is how many endpoints one message may carry.
const MaxEndpoints = 32
