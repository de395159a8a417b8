package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
)

// condWords are a condition in people's words. Where its terms differ in more than
// one thing, when has each in full.
type condWords struct {
	until   time.Time // the latest end
	when    []string  // any of these; none: whenever
	posture []string  // any of these; none: whatever is reported
}

func (c *conds) words(id cond) (w condWords) {
	if id == never || id == always {
		return w
	}
	const most = 64 // more than anybody reads
	type alternative struct {
		when, posture string
		until         int64
	}
	var list []alternative
	latest := int64(0)
	for _, t := range c.terms(id) {
		byEnd := map[int64][]span{}
		var ends []int64
		for _, s := range t.spans {
			if byEnd[s.until] == nil {
				ends = append(ends, s.until)
			}
			byEnd[s.until] = append(byEnd[s.until], s)
			latest = max(latest, s.until)
		}
		slices.SortFunc(ends, func(a, b int64) int { return cmp.Compare(b, a) })
		for _, end := range ends {
			list = append(list, alternative{spanText(byEnd[end], t.zone), t.posture.String(), end})
		}
	}
	w.until = moment(latest)
	oneWhen, onePosture, oneEnd := true, true, true
	for _, a := range list {
		oneWhen = oneWhen && a.when == list[0].when
		onePosture = onePosture && a.posture == list[0].posture
		oneEnd = oneEnd && a.until == list[0].until
	}
	add := func(list []string, s string) []string {
		if s == "" || slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	more := 0
	if !oneEnd || !oneWhen && !onePosture {
		more = max(0, len(list)-most)
		list = list[:len(list)-more]
	}
	for _, a := range list {
		if oneEnd && (oneWhen || onePosture) {
			w.when, w.posture = add(w.when, a.when), add(w.posture, a.posture)
			continue
		}
		var parts []string
		if a.when == "" {
			a.when = "whenever"
		}
		parts = append(parts, a.when)
		if a.posture != "" {
			parts = append(parts, "if "+a.posture)
		}
		if a.until != forever {
			parts = append(parts, "until "+Moment(moment(a.until)))
		}
		w.when = append(w.when, strings.Join(parts, ", "))
	}
	if more > 0 {
		w.when = append(w.when, fmt.Sprintf("and %d more such conditions", more))
	}
	return w
}

// spanText is spans as hours; nothing for the whole week.
func spanText(spans []span, zone string) string {
	if zone == "" {
		return ""
	}
	spans = slices.Clone(spans)
	if n := len(spans); n > 1 && spans[0].from == 0 && spans[n-1].to == week {
		spans[n-1].to += spans[0].to // over Saturday's midnight
		spans = spans[1:]
	}
	var hours acl.Hours
	add := func(day int, start, end int) {
		w := acl.Window{Days: 1 << (day % 7), Start: uint16(start), End: uint16(end), Zone: zone}
		for i := range hours {
			if hours[i].Start == w.Start && hours[i].End == w.End {
				hours[i].Days |= w.Days
				return
			}
		}
		hours = append(hours, w)
	}
	const day = 24 * 60
	for _, s := range spans {
		from, to := int(s.from), int(s.to)
		if from/day != (to-1)/day && to-from < day {
			add(from/day, from%day, to%day)
			continue
		}
		for from < to {
			end := min(to, (from/day+1)*day)
			add(from/day, from%day, end-from/day*day)
			from = end
		}
	}
	return HoursText(hours)
}

// equal reports whether two conditions that are written differently say the same,
// as terms of different postures or zones may: it tries every instant at which
// their hours begin or end within a year, and every value that their postures
// tell apart. Conditions too large for that are not equal.
func (c *conds) equal(a, b cond) bool {
	if a == b {
		return true
	}
	k := [2]cond{min(a, b), max(a, b)}
	c.mu.Lock()
	same, ok := c.same[k]
	if !ok && a != never && b != never && (c.parts[a] != nil || c.parts[b] != nil) {
		ok = true // too large: they differ
	}
	c.mu.Unlock()
	if !ok {
		same = equalTerms(c.terms(a), c.terms(b))
		c.mu.Lock()
		c.same[k] = same
		c.mu.Unlock()
	}
	return same
}

// equalTerms is equal without its memory. Of no terms, those are the same whose
// postures nothing meets.
func equalTerms(x, y []term) bool {
	if len(x) == 0 || len(y) == 0 {
		return !slices.ContainsFunc(slices.Concat(x, y), func(t term) bool { return possible(t.posture) })
	}
	if len(x) == 1 && len(y) == 1 && x[0].zone == y[0].zone && len(x[0].posture)+len(y[0].posture) == 0 {
		return false
	}
	all := slices.Concat(x, y)
	const most = 1 << 18
	reports := samples(all)
	if len(reports) == 0 || len(reports)*len(all) > most {
		return false
	}
	instants := moments(all, most/len(reports)/len(all))
	if len(instants) == 0 {
		return false
	}
	for _, r := range reports {
		met := make([]bool, len(all))
		for i, t := range all {
			met[i] = len(t.posture) == 0 || t.posture.Met(r)
		}
		for _, at := range instants {
			if endOf(x, met[:len(x)], at) != endOf(y, met[len(x):], at) {
				return false
			}
		}
	}
	return true
}

// endOf is the latest end of the terms that are met at an instant.
func endOf(terms []term, met []bool, at time.Time) (end int64) {
	for i, t := range terms {
		if !met[i] {
			continue
		}
		minute := int16(0)
		if t.zone != "" {
			minute = minuteOf(at, t.zone)
		}
		end = max(end, endAt(t.spans, minute))
	}
	return end
}

// minuteOf is the minute of the week by the wall clock of a zone.
func minuteOf(at time.Time, zone string) int16 {
	z, err := acl.ParseZone(zone)
	if err != nil {
		return -1
	}
	local := at.In(z)
	return int16(int(local.Weekday())*24*60 + local.Hour()*60 + local.Minute())
}

// moments are instants between which no term begins or ends, within a week where
// one zone tells hours, and else within the year 2027: those at which a clock
// shows an edge of the hours, both where it shows it twice, and those at which it
// is put forward or back. Where they are more than so many, there are none.
func moments(terms []term, most int) (out []time.Time) {
	zones := map[string]bool{}
	for _, t := range terms {
		if t.zone != "" {
			zones[t.zone] = true
		}
	}
	sunday := time.Date(2027, 1, 3, 0, 0, 0, 0, time.UTC)
	if len(zones) == 0 {
		return []time.Time{sunday}
	}
	weeks := 1
	if len(zones) > 1 {
		weeks = 53
	}
	for zone := range zones {
		z, err := acl.ParseZone(zone)
		if err != nil {
			continue
		}
		edges := map[int16]bool{0: true}
		for _, t := range terms {
			if t.zone == zone {
				for _, s := range t.spans {
					edges[s.from], edges[s.to%week] = true, true
				}
			}
		}
		if len(out)+weeks*len(edges) > most {
			return nil
		}
		for w := range weeks {
			begin := time.Date(2027, 1, 3+7*w, 0, 0, 0, 0, z)
			_, put := begin.ZoneBounds()
			moves := weeks > 1 && !put.IsZero() && put.Before(begin.AddDate(0, 0, 7))
			var by time.Duration
			if moves {
				out = append(out, put)
				_, was := begin.Zone()
				_, is := put.Zone()
				by = time.Duration(is-was) * time.Second
			}
			for m := range edges {
				at := time.Date(2027, 1, 3+7*w, 0, int(m), 0, 0, z)
				if out = append(out, at); moves {
					out = append(out, at.Add(by), at.Add(-by))
				}
			}
		}
	}
	return out
}
