package acl

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // every program knows the zones that a policy may name, whatever is installed
)

// A Window is a time of day on some days of the week, in a time zone: the wall
// clock there decides. It begins at Start and ends before End; where End is not
// after Start it ends on the day after, and belongs to the day on which it began.
//
// Its JSON is {"days": ["mon", "tue"], "from": "09:00", "to": "17:30", "zone":
// "Europe/Berlin"}; "to" may be "24:00".
type Window struct {
	Days  Days
	Start uint16 // minutes since midnight, below 1440
	End   uint16 // minutes since midnight, 1 to 1440
	Zone  string // IANA name; "UTC"
}

// Days is a set of days of the week: bit n is time.Weekday(n).
type Days uint8

// EveryDay is the whole week.
const EveryDay Days = 1<<7 - 1

// dayNames are the days as policies write them, by time.Weekday.
var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Has reports whether d is in the set.
func (s Days) Has(d time.Weekday) bool { return s>>d&1 == 1 }

// Names are the days in the set, from Monday.
func (s Days) Names() (names []string) {
	for i := range 7 {
		if d := time.Weekday((i + 1) % 7); s.Has(d) {
			names = append(names, dayNames[d])
		}
	}
	return names
}

// ParseDay reads "mon".
func ParseDay(s string) (Days, error) {
	if i := slices.Index(dayNames[:], s); i >= 0 {
		return 1 << i, nil
	}
	return 0, fmt.Errorf("%q is not a day: want mon, tue, wed, thu, fri, sat or sun", s)
}

// ParseClock reads "09:00" as minutes since midnight, up to "24:00".
func ParseClock(s string) (uint16, error) {
	if len(s) != 5 || s[2] != ':' {
		return 0, fmt.Errorf("%q is not a time of day: want HH:MM", s)
	}
	h, err := number(strings.TrimPrefix(s[:2], "0"), 24)
	m, err2 := number(strings.TrimPrefix(s[3:], "0"), 59)
	if err != nil || err2 != nil || h == 24 && m > 0 {
		return 0, fmt.Errorf("%q is not a time of day: want HH:MM", s)
	}
	return uint16(h*60 + m), nil
}

func clock(m uint16) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }

var zones sync.Map // name → *time.Location; only of names that exist

// ParseZone finds a time zone by its IANA name. "Local" is none: it means
// something else on every machine.
func ParseZone(name string) (*time.Location, error) {
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	if name == "" || name == "Local" || len(name) > 64 {
		return nil, fmt.Errorf("%q is not a time zone: want a name such as Europe/Berlin, or UTC", name)
	}
	z, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time zone: want a name such as Europe/Berlin, or UTC", name)
	}
	zones.Store(name, z)
	return z, nil
}

// Check says what is wrong with w.
func (w Window) Check() error {
	switch {
	case w.Days == 0 || w.Days > EveryDay:
		return errors.New("hours: no day")
	case w.Start >= 1440 || w.End < 1 || w.End > 1440:
		return errors.New("hours: not times of day")
	}
	_, err := ParseZone(w.Zone)
	return err
}

// Contains reports whether the instant is in the window. Of a window that does
// not pass Check, none is.
func (w Window) Contains(at time.Time) bool {
	zone, err := ParseZone(w.Zone)
	if err != nil {
		return false
	}
	local := at.In(zone)
	day, minute := local.Weekday(), uint16(local.Hour()*60+local.Minute())
	if w.Start < w.End {
		return w.Days.Has(day) && w.Start <= minute && minute < w.End
	}
	return w.Days.Has(day) && minute >= w.Start || w.Days.Has((day+6)%7) && minute < w.End
}

// Next is the first instant after at when the window may begin or end: between
// the two, Contains gives one answer. Zero where it never does.
func (w Window) Next(at time.Time) (next time.Time) {
	zone, err := ParseZone(w.Zone)
	if err != nil || w.Days == 0 {
		return time.Time{}
	}
	consider := func(t time.Time) {
		if t.After(at) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	local := at.In(zone)
	y, m, d := local.Date()
	for i := -1; i <= 8; i++ { // a window may have begun yesterday, or wait a week
		for _, minute := range []uint16{w.Start, w.End % 1440} {
			t := time.Date(y, m, d+i, int(minute/60), int(minute%60), 0, 0, zone)
			consider(t)
			consider(twin(t))
		}
	}
	// Where the wall clock is set, it may pass over a time of day.
	_, change := local.ZoneBounds()
	consider(change)
	return next
}

// twin is the other instant at which the wall clock shows what it shows at t: where
// it is set back, a time of day comes twice. T itself where there is none.
func twin(t time.Time) time.Time {
	_, offset := t.Zone()
	start, end := t.ZoneBounds() // of the offset; zero where it always was, or stays
	for _, other := range []time.Time{start.Add(-time.Second), end} {
		if start.IsZero() && other.Before(t) || other.IsZero() {
			continue
		}
		_, o := other.Zone()
		u := t.Add(time.Duration(offset-o) * time.Second)
		if _, there := u.Zone(); there == o {
			return u
		}
	}
	return t
}

func (w Window) String() string {
	return fmt.Sprintf("%s %s-%s %s", strings.Join(w.Days.Names(), ","), clock(w.Start), clock(w.End), w.Zone)
}

type windowJSON struct {
	Days []string `json:"days"`
	From string   `json:"from"`
	To   string   `json:"to"`
	Zone string   `json:"zone"`
}

// MarshalJSON writes w.
func (w Window) MarshalJSON() ([]byte, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	return json.Marshal(windowJSON{w.Days.Names(), clock(w.Start), clock(w.End), w.Zone})
}

// UnmarshalJSON reads what MarshalJSON writes: a field that it does not know is an
// error.
func (w *Window) UnmarshalJSON(b []byte) error {
	var j windowJSON
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return err
	}
	var out Window
	var err error
	for _, name := range j.Days {
		day, err := ParseDay(name)
		if err != nil {
			return err
		}
		out.Days |= day
	}
	if out.Start, err = ParseClock(j.From); err != nil {
		return err
	}
	if out.End, err = ParseClock(j.To); err != nil {
		return err
	}
	out.Zone = j.Zone
	*w = out
	return out.Check()
}

// Hours are the windows of a grant. In JSON they are absent or at least one: an
// empty list reads as if it said "never", and means "always".
type Hours []Window

// UnmarshalJSON reads a list of windows that is not empty.
func (h *Hours) UnmarshalJSON(b []byte) error {
	var out []Window
	if err := json.Unmarshal(b, &out); err != nil {
		return err
	}
	if len(out) == 0 {
		return errors.New("hours: an empty list")
	}
	*h = out
	return nil
}

// Within reports whether the instant is in one of the windows, or there are none.
func Within(hours Hours, at time.Time) bool {
	return len(hours) == 0 || slices.ContainsFunc(hours, func(w Window) bool { return w.Contains(at) })
}

// WithinUntil is the first instant after at that is in none of the windows, zero
// where there is none within a fortnight: weekly windows that have no gap then
// have none, but for the clock's changes.
func WithinUntil(hours Hours, at time.Time) time.Time {
	if len(hours) == 0 {
		return time.Time{}
	}
	for t, horizon := at, at.AddDate(0, 0, 15); t.Before(horizon); {
		var next time.Time
		for _, w := range hours {
			if n := w.Next(t); !n.IsZero() && (next.IsZero() || n.Before(next)) {
				next = n
			}
		}
		if next.IsZero() {
			return time.Time{}
		}
		if t = next; !Within(hours, t) {
			return t
		}
	}
	return time.Time{}
}
