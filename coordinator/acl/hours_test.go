package acl

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func window(t testing.TB, text string) (w Window) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	return w
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// The wall clock of the zone decides: the instants are written in UTC.
func TestWindowContains(t *testing.T) {
	const (
		office = `{"days":["mon","tue","wed","thu","fri"],"from":"09:00","to":"17:30","zone":"Europe/Berlin"}`
		night  = `{"days":["sat"],"from":"22:00","to":"06:00","zone":"UTC"}`
		whole  = `{"days":["sun"],"from":"00:00","to":"24:00","zone":"UTC"}`
		gap    = `{"days":["sun"],"from":"02:00","to":"03:00","zone":"Europe/Berlin"}` // does not come on 29 March 2026, comes twice on 25 October
		tokyo  = `{"days":["mon"],"from":"00:00","to":"01:00","zone":"Asia/Tokyo"}`
	)
	for _, c := range []struct {
		window, at string
		want       bool
	}{
		{office, "2026-11-23T07:59:59Z", false}, {office, "2026-11-23T08:00:00Z", true}, {office, "2026-11-23T16:29:59Z", true}, {office, "2026-11-23T16:30:00Z", false},
		{office, "2026-07-06T07:00:00Z", true}, {office, "2026-07-06T06:59:59Z", false}, // summer time
		{office, "2026-11-22T12:00:00Z", false}, // a Sunday
		{night, "2026-11-21T21:59:59Z", false}, {night, "2026-11-21T22:00:00Z", true}, {night, "2026-11-22T05:59:59Z", true}, {night, "2026-11-22T06:00:00Z", false},
		{night, "2026-11-22T23:00:00Z", false}, {night, "2026-11-21T03:00:00Z", false}, // Friday's night is not Saturday's
		{whole, "2026-11-22T00:00:00Z", true}, {whole, "2026-11-22T23:59:59Z", true}, {whole, "2026-11-23T00:00:00Z", false}, {whole, "2026-11-21T23:59:59Z", false},
		{gap, "2026-03-29T00:59:59Z", false}, {gap, "2026-03-29T01:00:00Z", false}, {gap, "2026-03-29T00:30:00Z", false},
		{gap, "2026-10-25T00:00:00Z", true}, {gap, "2026-10-25T01:30:00Z", true}, {gap, "2026-10-25T02:00:00Z", false},
		{tokyo, "2026-11-22T15:00:00Z", true}, {tokyo, "2026-11-22T16:00:00Z", false}, {tokyo, "2026-11-23T00:30:00Z", false},
	} {
		if got := window(t, c.window).Contains(instant(t, c.at)); got != c.want {
			t.Errorf("%s at %s: got %v, want %v", c.window, c.at, got, c.want)
		}
	}
}

func TestWindowRefuses(t *testing.T) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `"mon"`,
		`{"days":[],"from":"09:00","to":"17:00","zone":"UTC"}`,
		`{"days":["monday"],"from":"09:00","to":"17:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"24:00","to":"17:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"09:00","to":"00:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"09:00","to":"24:01","zone":"UTC"}`,
		`{"days":["mon"],"from":"9:00","to":"17:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"09:60","to":"17:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"+9:00","to":"17:00","zone":"UTC"}`,
		`{"days":["mon"],"from":"09:00","to":"17:00"}`,
		`{"days":["mon"],"from":"09:00","to":"17:00","zone":"Local"}`,
		`{"days":["mon"],"from":"09:00","to":"17:00","zone":"../../etc/passwd"}`,
		`{"days":["mon"],"from":"09:00","to":"17:00","zone":"UTC","weeks":2}`,
	} {
		var w Window
		if err := json.Unmarshal([]byte(text), &w); err == nil {
			t.Errorf("%s: accepted as %s", text, w)
		}
		if w.Contains(noon) {
			t.Errorf("%s: contains noon", text)
		}
	}
}

// A time of day that comes twice may begin and end a window twice, and so does
// one that the clock is set to, or at.
func TestWindowNextTwice(t *testing.T) {
	for _, c := range []struct {
		start, end uint16
		from       string
		want       []string
	}{
		// Sunday 2026-10-25 in Berlin: 03:00 is set to 02:00, at 01:00 UTC.
		{120, 150, "2026-10-24T23:30:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"}},
		{90, 120, "2026-10-24T23:00:00Z", []string{"2026-10-24T23:30:00Z", "2026-10-25T00:00:00Z"}},
		{120, 1, "2026-10-24T23:00:00Z", []string{"2026-10-25T00:00:00Z"}},
		{150, 210, "2026-10-24T23:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		// Sunday 2026-03-29: 02:00 is set to 03:00, at 01:00 UTC.
		{150, 240, "2026-03-29T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"}},
	} {
		w := Window{Days: 1 << time.Sunday, Start: c.start, End: c.end, Zone: "Europe/Berlin"}
		at, err := time.Parse(time.RFC3339, c.from)
		if err != nil {
			t.Fatal(err)
		}
		is := w.Contains(at)
		var got []string
		for at = w.Next(at); len(got) < len(c.want); at = w.Next(at) {
			if w.Contains(at) != is { // else it might have changed, and did not
				is = !is
				got = append(got, at.UTC().Format(time.RFC3339))
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: changes at %v, want %v", w, got, c.want)
		}
	}
}

func drawWindow(t *rapid.T) Window {
	return Window{
		Days:  Days(rapid.IntRange(1, int(EveryDay)).Draw(t, "days")),
		Start: uint16(rapid.SampledFrom([]int{0, 1, 60, 90, 120, 150, 540, 1439}).Draw(t, "start")),
		End:   uint16(rapid.SampledFrom([]int{1, 60, 121, 180, 540, 1050, 1439, 1440}).Draw(t, "end")),
		Zone:  rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"}).Draw(t, "zone"),
	}
}

// Between an instant and Next the answer is one: tried each minute over a
// fortnight, around the days on which clocks are set. And what is written is read
// again.
func TestWindowNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWindow(t)
		b, err := json.Marshal(w)
		var again Window
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || again != w {
			t.Fatalf("%s is written as %s and read as %s, %v", w, b, again, err)
		}
		start := rapid.SampledFrom([]string{"2026-03-26T00:00:00Z", "2026-10-22T12:00:00Z", "2026-04-03T00:00:00Z", "2026-11-20T00:00:00Z"}).Draw(t, "start")
		at, _ := time.Parse(time.RFC3339, start)
		is, next := w.Contains(at), w.Next(at)
		for n := range 8 * 24 * 60 {
			now := at.Add(time.Duration(n) * time.Minute)
			if !next.After(now) {
				is, next = w.Contains(now), w.Next(now)
				continue
			}
			if w.Contains(now) != is {
				t.Fatalf("%s: %v at %s, %v before, and the next change is %s", w, !is, now, is, next)
			}
		}
		hours := Hours{w, drawWindow(t)}
		end := WithinUntil(hours, at)
		for n := range 3 * 24 * 60 {
			now := at.Add(time.Duration(n) * time.Minute)
			if Within(hours, at) && (end.IsZero() || now.Before(end)) && !Within(hours, now) {
				t.Fatalf("%v: within until %s, and not at %s", hours, end, now)
			}
		}
		if Within(hours, at) && !end.IsZero() && Within(hours, end) {
			t.Fatalf("%v: within until %s, and at it", hours, end)
		}
	})
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte(`{"days":["mon","sun"],"from":"09:00","to":"17:30","zone":"Europe/Berlin"}`), int64(0))
	f.Add([]byte(`{"days":["sat"],"from":"22:00","to":"06:00","zone":"UTC"}`), int64(1<<60))
	f.Fuzz(func(t *testing.T, b []byte, unix int64) {
		var w Window
		if json.Unmarshal(b, &w) != nil {
			return
		}
		if err := w.Check(); err != nil {
			t.Errorf("%s is read and is wrong: %v", b, err)
		}
		at := time.Unix(unix%(1<<40), 0)
		if next := w.Next(at); !next.After(at) {
			t.Errorf("%s: next of %s is %s", w, at, next)
		}
		w.Contains(at)
	})
}
