//go:build race

package client_test

// raceEnabled: under the race detector sync.Pool drops at random.
const raceEnabled = true
