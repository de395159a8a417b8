package filter

import "github.com/writmesh/writ/agent/packet"

// Stats are counters since the filter was made. Arrays are indexed by Direction
// first, In and Out.
type Stats struct {
	Packets  [2][Reasons]uint64         // by Reason
	Refused  [2][packet.Refusals]uint64 // of those malformed, by packet.Refusal
	Rules    map[string]uint64          // flows that each rule in force let in, by its name
	Answered uint64                     // resets and errors sent
	Evicted  uint64                     // flows that made room for others
	Flows    int                        // known now, expired ones included
}

// Stats reads the counters. They are exact for packets judged before the call.
func (f *Filter) Stats() Stats {
	st := Stats{Rules: map[string]uint64{}, Answered: f.answered.Load()}
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		for dir := range s.counts {
			for r, n := range s.counts[dir] {
				st.Packets[dir][r] += n
			}
		}
		st.Evicted += s.evicted
		st.Flows += s.used
		s.mu.Unlock()
	}
	for dir := range f.refused {
		for r := range f.refused[dir] {
			n := f.refused[dir][r].Load()
			st.Refused[dir][r] = n
			st.Packets[dir][Malformed] += n
		}
	}
	for _, r := range f.active.Load().tallies {
		st.Rules[r.name] = r.hits.Load()
	}
	return st
}
