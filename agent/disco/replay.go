package disco

// windowSize is how far behind the newest a message may arrive, in messages of
// one pair and direction. A relay and a direct path differ by a second or two
// at most, in which path's budget allows some hundred pings to one peer.
const windowSize = 1024

// A window remembers which messages of a pair and direction have been seen. Its
// zero value has seen none.
type window struct {
	boot    uint64 // the highest
	counter uint64 // the highest of that boot
	// seen has a bit for each of the windowSize counters that end with counter;
	// the counter n is the bit n modulo windowSize.
	seen [windowSize / 64]uint64
}

// take reports whether a message is new, and remembers it.
func (w *window) take(boot, counter uint64) bool {
	switch {
	case boot < w.boot:
		return false
	case boot > w.boot:
		*w = window{boot: boot}
	}
	switch {
	case counter > w.counter:
		if counter-w.counter >= windowSize {
			w.seen = [windowSize / 64]uint64{}
		} else {
			for n := w.counter + 1; n != counter; n++ {
				w.seen[n%windowSize/64] &^= 1 << (n % 64)
			}
		}
		w.counter = counter
	case w.counter-counter >= windowSize:
		return false
	case w.seen[counter%windowSize/64]&(1<<(counter%64)) != 0:
		return false
	}
	w.seen[counter%windowSize/64] |= 1 << (counter % 64)
	return true
}
