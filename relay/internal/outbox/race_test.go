//go:build race

package outbox

// raceEnabled: under the race detector sync.Pool drops at random.
const raceEnabled = true
