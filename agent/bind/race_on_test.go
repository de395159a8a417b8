//go:build race

package bind

// raceEnabled: sync.Pool drops things at random under the race detector.
const raceEnabled = true
