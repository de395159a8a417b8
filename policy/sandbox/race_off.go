//go:build !race

package sandbox

// raceBuilt says that the race detector is not in.
const raceBuilt = false
