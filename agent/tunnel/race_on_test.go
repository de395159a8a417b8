//go:build race

package tunnel

// raceEnabled makes bulk transfers smaller: the detector slows them tenfold.
const raceEnabled = true
