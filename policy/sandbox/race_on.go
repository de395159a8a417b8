//go:build race

package sandbox

// raceBuilt says that the race detector is in. Its shadow of the heap counts as
// private memory, four bytes and more for each.
const raceBuilt = true
