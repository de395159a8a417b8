package model

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// maxWindows is how many windows a rule may have: every packet of a new flow is
// judged by all of them.
const maxWindows = 16

func (d *decoder) hours(v *value, what string) (out acl.Hours) {
	if v == nil {
		return nil
	}
	d.notEmpty(v, what, `"hours"`)
	if len(v.items) > maxWindows {
		d.problems.Add(v.place, "%s: %d windows in hours, at most %d", what, len(v.items), maxWindows)
	}
	seen := map[acl.Window]Place{}
	for _, item := range v.items {
		w, ok := d.window(item, what)
		if !ok {
			continue
		}
		if before, ok := seen[w]; ok {
			d.twice(item.place, before, what, w.String())
			continue
		}
		seen[w] = item.place
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b acl.Window) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.Days, b.Days), strings.Compare(a.Zone, b.Zone))
	})
	return out
}

func (d *decoder) window(v *value, what string) (w acl.Window, ok bool) {
	before := len(d.problems)
	w.Days = acl.EveryDay
	if days := v.field("days"); days != nil {
		d.notEmpty(days, what, `"days"`)
		w.Days = 0
		for _, item := range days.items {
			some, err := parseDays(item.str)
			d.add(item.place, what, err)
			w.Days |= some
		}
	}
	from, to, zone := v.field("from"), v.field("to"), v.field("zone")
	var err error
	if w.Start, err = acl.ParseClock(from.str); err == nil && w.Start == 24*60 {
		err = errors.New(`"24:00" begins no window; write "00:00"`)
	}
	d.add(from.place, what, err)
	if w.End, err = acl.ParseClock(to.str); err == nil && w.End == 0 {
		err = errors.New(`"00:00" ends no window; write "24:00"`)
	}
	d.add(to.place, what, err)
	if err := checkZone(zone.str); err != nil {
		d.problems.Add(zone.place, "%s: %s", what, clean(err.Error()))
	}
	w.Zone = zone.str
	if len(d.problems) > before {
		return w, false
	}
	if w.Start == w.End {
		d.problems = append(d.problems, Problem{Place: v.place, Message: fmt.Sprintf("%s: a window from %s to %s", what, from.str, to.str),
			Hint: `the whole day is from "00:00" to "24:00"`})
		return w, false
	}
	return w, true
}

// checkZone refuses what is no zone, and what some machines know as one and others
// do not: abbreviations, the machine's own zone ("localtime"), and the copies of all
// zones with and without leap seconds ("posix/…", "right/…").
func checkZone(name string) error {
	err := fmt.Errorf("%s is not a time zone: want a name such as Europe/Berlin, or UTC", quoteName(name))
	region, _, ok := strings.Cut(name, "/")
	if name != "UTC" && !ok || region == "posix" || region == "right" {
		return err
	}
	if _, bad := acl.ParseZone(name); bad != nil {
		return err
	}
	return nil
}

// weekdays are the days as policies write them, in the order of ranges.
var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// parseDays reads "mon", or "mon-fri". A range may go over the end of the week.
func parseDays(s string) (acl.Days, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	i, j := slices.Index(weekdays, first), slices.Index(weekdays, last)
	switch {
	case i < 0 || j < 0:
		meant := nearest(s, slices.Clone(weekdays))
		if len(s) > 3 { // "monday"
			if k := slices.IndexFunc(weekdays, func(d string) bool { return strings.HasPrefix(strings.ToLower(s), d) && !ranged }); k >= 0 {
				meant = weekdays[k]
			}
		}
		return 0, fmt.Errorf(`%s is not a day: want mon, tue, wed, thu, fri, sat or sun, or a range as "mon-fri"%s`, quoteName(s), didYouMean(meant))
	case ranged && i == j:
		return 0, fmt.Errorf(`%s is one day; write %q`, quoteName(s), first)
	}
	var days acl.Days
	for ; ; i = (i + 1) % len(weekdays) {
		day, err := acl.ParseDay(weekdays[i])
		if err != nil {
			return 0, err
		}
		days |= day
		if i == j {
			return days, nil
		}
	}
}
