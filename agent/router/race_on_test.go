//go:build race && linux

package router

// scale divides the size of big tests: the race detector makes them ten times as
// long and finds nothing more in them.
const scale = 10
