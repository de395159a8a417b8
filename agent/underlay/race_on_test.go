//go:build race

package underlay

// raceEnabled: everything takes ten times as long.
const raceEnabled = true
