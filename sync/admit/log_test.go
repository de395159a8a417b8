package admit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
)

// A shelf is a log of some admissions on disk, and what it was after each.
type shelf struct {
	*office
	secret papers.EnrolSecret
	roots  []*trust.Root
	log    []byte
	heads  [][]byte // heads[n] counts n; heads[0] is nil
	ends   []int    // ends[n] is the log's length with n entries
}

func newShelf(t testing.TB, n int) *shelf {
	t.Helper()
	fleet, secret := entry("fleet", []string{"*"}, "db")
	s := &shelf{office: newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}}), secret: secret, heads: [][]byte{nil}, ends: []int{0}}
	s.roots = []*trust.Root{s.w.Root}
	for i := range n {
		s.crowd(1, fmt.Sprintf("db-%d-", i), secret)
		s.log = s.file("admissions.log")
		s.heads, s.ends = append(s.heads, s.file("admissions.head")), append(s.ends, len(s.log))
	}
	s.Log.Close()
	return s
}

func (s *shelf) file(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// disk is a directory with these files; nil is none.
func disk(t testing.TB, log, head, prev []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range map[string][]byte{"admissions.log": log, "admissions.head": head, "admissions.head.prev": prev} {
		if b == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// opens expects a log of n entries that can be appended to and opened again.
func (s *shelf) opens(t *testing.T, dir string, n int) {
	t.Helper()
	l, err := OpenLog(dir, s.roots)
	if err != nil {
		t.Fatal(err)
	}
	if l.Len() != int64(n) {
		t.Fatalf("%d entries, want %d", l.Len(), n)
	}
	o := *s.office
	o.t, o.dir = t, dir
	o.Admitter = &Admitter{Network: s.w.Network, Sign: s.w.AdmissionKey, Seal: s.w.Seal, Log: l}
	fleet := leaf.Enrolment{Name: "fleet", Key: s.secret.Key.Public(), Tags: s.secret.Tags, Names: []string{"*"}}
	o.SetStanding(o.standing(policy{enrolments: []leaf.Enrolment{fleet}}))
	o.crowd(1, "new-", s.secret)
	head := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenLog(dir, s.roots); err != nil {
		t.Fatalf("opened again: %v", err)
	}
	defer l.Close()
	if l.Len() != int64(n+1) || l.Head() != head {
		t.Errorf("opened again: %d entries up to %s, want %d up to %s", l.Len(), l.Head(), n+1, head)
	}
}

// refuses expects that the log is not opened, for that reason, and not changed.
func (s *shelf) refuses(t *testing.T, dir, want string, lost bool) {
	t.Helper()
	path := filepath.Join(dir, "admissions.log")
	before, _ := os.ReadFile(path)
	l, err := OpenLog(dir, s.roots)
	if err == nil {
		l.Close()
		t.Fatalf("opened with %d entries, want: %s", l.Len(), want)
	}
	if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "admission log "+path+": ") || errors.Is(err, ErrLost) != lost {
		t.Errorf("got %v\nwant %s, with the file named; lost: %v", err, want, lost)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the log was changed")
	}
}

func TestLogIsOpenedAgain(t *testing.T) {
	for n := range 4 {
		s := newShelf(t, n)
		s.opens(t, s.dir, n)
	}
}

// The machine stopped while the last entry was written: every part of it may be
// on the disk, with zeros after it where the file had grown already.
func TestTornTailIsCut(t *testing.T) {
	s := newShelf(t, 3)
	for at := s.ends[2]; at < s.ends[3]; at++ {
		for _, tail := range []struct {
			name  string
			zeros int
		}{{"", 0}, {"then zeros", s.ends[3] - at}} {
			torn := append(bytes.Clone(s.log[:at]), make([]byte, tail.zeros)...)
			entries, whole, err := parseLog(torn, 2, s.roots)
			if err != nil || len(entries) != 2 || whole != s.ends[2] {
				t.Fatalf("cut at %d %s: %d entries of %d bytes, %v; want 2 of %d", at, tail.name, len(entries), whole, err, s.ends[2])
			}
			// The head counts the third: it was shown, and is lost.
			entries, _, err = parseLog(torn, 3, s.roots)
			if at > s.ends[2] && err == nil || at == s.ends[2] && tail.zeros == 0 && len(entries) != 2 {
				t.Fatalf("cut at %d %s, and counted: %d entries, want an error", at, tail.name, len(entries))
			}
		}
	}
	middle := (s.ends[2] + s.ends[3]) / 2
	s.opens(t, disk(t, s.log[:middle], s.heads[2], s.heads[1]), 2)
	s.refuses(t, disk(t, s.log[:middle], s.heads[3], s.heads[2]), "entry 3: ends too early", false)
	s.refuses(t, disk(t, s.log[:s.ends[2]], s.heads[3], s.heads[2]), "2 entries, 3 were signed: "+ErrLost.Error(), true)
	// What was never the beginning of an entry is not cut.
	s.refuses(t, disk(t, append(bytes.Clone(s.log[:s.ends[2]]), "surprise"...), s.heads[2], s.heads[1]), "entry 3: no header", false)
}

func TestKilledBetweenLogAndHead(t *testing.T) {
	s := newShelf(t, 3)
	for n := 1; n <= 3; n++ {
		dir := disk(t, s.log[:s.ends[n]], s.heads[n-1], nil)
		s.opens(t, dir, n)
	}
}

func TestFlippedByte(t *testing.T) {
	s := newShelf(t, 3)
	bad := bytes.Clone(s.log)
	for at := range bad {
		bit := byte(1) << (at % 8)
		bad[at] ^= bit
		// Entries that no head counts are judged no softer, where all is there.
		for _, counted := range []int64{2, 3} {
			entries, whole, err := parseLog(bad, counted, s.roots)
			if err == nil && (counted == 3 || len(entries) != 2 || whole != s.ends[2] || at < s.ends[2]) {
				t.Errorf("bit of byte %d flipped, %d counted: %d entries and no error", at, counted, len(entries))
			}
		}
		bad[at] ^= bit
	}
	for n := 1; n <= 3; n++ {
		flip := bytes.Clone(s.log)
		flip[s.ends[n]-20] ^= 1
		s.refuses(t, disk(t, flip, s.heads[3], s.heads[2]), fmt.Sprintf("entry %d: checksum does not match", n), false)
		flip = bytes.Clone(s.log)
		flip[s.ends[n-1]] ^= 1
		s.refuses(t, disk(t, flip, s.heads[3], s.heads[2]), fmt.Sprintf("entry %d: no header", n), false)
	}
}

func TestLostEntries(t *testing.T) {
	s := newShelf(t, 3)
	s.refuses(t, disk(t, nil, s.heads[3], s.heads[2]), "0 entries, 3 were signed: ", true)
	s.refuses(t, disk(t, s.log[:s.ends[1]], s.heads[3], s.heads[2]), "1 entries, 3 were signed: ", true)
	s.refuses(t, disk(t, s.log[s.ends[1]:], s.heads[3], s.heads[2]), "entry 1 calls itself 2", false)

	// A log that somebody wrote anew with as many entries.
	other := *s
	other.office = &office{t: t, w: s.w, dir: t.TempDir(), ended: s.ended, seq: 1}
	other.open()
	other.SetStanding(s.standing(policy{enrolments: []leaf.Enrolment{{Name: "fleet", Key: s.secret.Key.Public(), Tags: s.secret.Tags, Names: []string{"*"}}}}))
	other.crowd(3, "x", s.secret)
	s.refuses(t, disk(t, other.file("admissions.log"), s.heads[3], s.heads[2]), "entry 3 is not the one signed: ", true)
	other.crowd(1, "y", s.secret)
	s.refuses(t, disk(t, other.file("admissions.log"), s.heads[3], s.heads[2]), "entry 3 is not the one signed: ", true)
}

func TestHeadFile(t *testing.T) {
	s := newShelf(t, 3)
	damaged := bytes.Clone(s.heads[3])
	damaged[len(damaged)-1] ^= 1

	// Without it nobody can tell what was shown: one entry may be the first, whose
	// head was not written any more; of two, one was counted.
	s.refuses(t, disk(t, s.log, nil, nil), "3 entries, and ", false)
	s.refuses(t, disk(t, s.log[:s.ends[2]], nil, nil), "admissions.head counts 0: that file is gone, or an old one", false)
	s.refuses(t, disk(t, s.log, s.heads[1], nil), "admissions.head counts 1: that file is gone, or an old one", false)

	// The copy before it counts one less, and the log must have that one more.
	for name, head := range map[string][]byte{"damaged": damaged, "empty": {}, "missing": nil} {
		t.Run(name+" beside a whole copy", func(t *testing.T) {
			s.opens(t, disk(t, s.log, head, s.heads[2]), 3)
			s.refuses(t, disk(t, s.log[:s.ends[2]], head, s.heads[2]), "2 entries, 3 were signed: ", true)
			s.refuses(t, disk(t, s.log[:s.ends[3]-1], head, s.heads[2]), "entry 3: ends too early", false)
		})
	}
	// The head of the next entry was damaged when the machine stopped.
	more := newShelf(t, 4)
	more.opens(t, disk(t, more.log, damaged, more.heads[2]), 4)

	dir := disk(t, s.log, damaged, damaged)
	s.refuses(t, dir, "state file "+filepath.Join(dir, "admissions.head")+" is damaged (checksum does not match), and there is no whole copy", false)
	s.refuses(t, disk(t, s.log, statefile.Encode("revision", []byte("{}")), nil), `holds "revision", want "admission-head"`, false)
	s.refuses(t, disk(t, s.log, statefile.Encode(headKind, []byte("[]")), nil), "cannot unmarshal", false)
	s.refuses(t, disk(t, s.log, statefile.Encode(headKind, []byte(`{"count":-1}`)), nil), "counts -1", false)
}

// signed is a log of admissions as the test changes them, signed by k.
func (s *shelf) signed(k trust.SigningKey, change func(i int, a *papers.Admission)) []byte {
	s.t.Helper()
	entries, _, err := parseLog(s.log, 3, s.roots)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []byte
	prev := key.Hash{}
	for i, e := range entries {
		a := *e.Admission
		a.Prev = prev
		change(i, &a)
		signed, err := papers.NewAdmission(a)
		if err != nil {
			s.t.Fatal(err)
		}
		note, err := trust.Sign(signed.Text(), k)
		if err != nil {
			s.t.Fatal(err)
		}
		prev = signed.Hash()
		out = append(fmt.Appendf(out, "writ-admission %d %x\n", len(note), sha256.Sum256(note)), note...)
	}
	return out
}

func TestEntriesThatDoNotBelong(t *testing.T) {
	s := newShelf(t, 3)
	stranger, err := trust.NewSigningKey("stranger")
	if err != nil {
		t.Fatal(err)
	}
	same := func(int, *papers.Admission) {}
	if got := s.signed(s.w.AdmissionKey, same); !bytes.Equal(got, s.log) {
		t.Fatal("the same admissions make another log")
	}
	for _, c := range []struct {
		name string
		log  []byte
		want string
	}{
		{"signed by another key", s.signed(stranger, same), "entry 1: admission: none of the 1 keys in force signed"},
		{"signed by the policy key", s.signed(s.w.PolicyKey, same), "entry 1: admission: none of the 1 keys in force signed"},
		{"of another network", s.signed(s.w.AdmissionKey, func(i int, a *papers.Admission) {
			if i == 1 {
				a.Network = key.NetworkID{9}
				a.IPv6 = papers.Address6(a.Network, a.Identity)
			}
		}), "entry 2: admission: of network " + key.NetworkID{9}.String()},
		{"chain broken", s.signed(s.w.AdmissionKey, func(i int, a *papers.Admission) {
			if i == 2 {
				a.Prev = key.HashOf([]byte("another"))
			}
		}), "entry 3 does not follow the one before it"},
		{"a number left out", s.signed(s.w.AdmissionKey, func(i int, a *papers.Admission) {
			if i == 2 {
				a.Log = 4
			}
		}), "entry 3 calls itself 4"},
		{"an entry twice", append(bytes.Clone(s.log), s.log[s.ends[2]:]...), "entry 4 calls itself 3"},
	} {
		t.Run(c.name, func(t *testing.T) { s.refuses(t, disk(t, c.log, s.heads[3], s.heads[2]), c.want, false) })
	}
	a := newShelf(t, 3)
	s.refuses(t, a.dir, "entry 1: ", false)
}

// What was admitted under an older root document stays in the log.
func TestAdmissionKeyReplaced(t *testing.T) {
	s := newShelf(t, 2)
	next := *s.w.Root
	var err error
	if s.w.AdmissionKey, err = trust.NewSigningKey("admission-2"); err != nil {
		t.Fatal(err)
	}
	next.AdmissionKeys = []trust.VKey{s.w.AdmissionKey.Public()}
	s.w.AddRoot(next)
	s.roots = append(s.roots, s.w.Root)
	s.opens(t, s.dir, 2)
	s.roots = s.roots[:1]
	s.refuses(t, s.dir, "entry 3: ", false)
}

// A head that cannot be written leaves the admission unshown; it is not admitted
// twice, and the next revision can put it out.
func TestHeadThatCannotBeWritten(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	o.crowd(1, "db-", secret)
	head := o.Log.head
	o.Log.head = filepath.Join(o.dir, "gone", "head")

	k := key.NewIdentity()
	request := o.enrol(k, "web-1", secret)
	for range 2 {
		a, note, err := o.Decide(k.Public(), request, o.w.Now)
		var r *Refusal
		if err == nil || errors.As(err, &r) || a != nil || note != nil {
			t.Errorf("got %v, %v; want an error of sync", a, err)
		}
		if _, shown := o.Log.Newest(k.Public().NodeID()); shown || o.Len() != 1 || len(o.After(0)) != 1 {
			t.Errorf("an admission that the head does not count is shown")
		}
	}
	if err := o.Succeed(o.standing(policy{}), func(map[key.NodeID]string, key.Hash) (*Standing, error) {
		t.Error("a revision is decided without it")
		return nil, nil
	}); err == nil {
		t.Error("no error of a revision that cannot judge the whole log")
	}

	// A sync that starts now finds it.
	log, err := os.ReadFile(filepath.Join(o.dir, "admissions.log"))
	if err != nil {
		t.Fatal(err)
	}
	headBytes, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenLog(disk(t, log, headBytes, nil), []*trust.Root{o.w.Root})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Len() != 2 {
		t.Errorf("%d entries after a restart, want 2", again.Len())
	}

	o.Log.head = head
	if out := o.succeed(policy{}); out[k.Public().NodeID()] != "enrolment" || len(out) != 2 {
		t.Errorf("out: %v, want both nodes", out)
	}
}

// A log whose file cannot be written admits nobody, and says so until sync is
// started again.
func TestLogThatCannotBeWritten(t *testing.T) {
	fleet, secret := entry("fleet", []string{"*"}, "db")
	o := newOffice(t, policy{enrolments: []leaf.Enrolment{fleet}})
	o.Log.Close()
	k := key.NewIdentity()
	for range 2 {
		if _, _, err := o.Decide(k.Public(), o.enrol(k, "db-1", secret), o.w.Now); !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v, want %v", err, os.ErrClosed)
		}
	}
	if o.Len() != 0 {
		t.Error("an admission that was not written is shown")
	}
}

func FuzzLog(f *testing.F) {
	s := newShelf(f, 3)
	f.Add(s.log, int64(3))
	f.Add(s.log[:s.ends[3]-5], int64(2))
	f.Add(append(bytes.Clone(s.log[:s.ends[2]]), make([]byte, 40)...), int64(2))
	f.Add([]byte("writ-admission 0 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"), int64(0))
	f.Add([]byte("writ-admission +5 00\nhello"), int64(0))
	f.Add([]byte("writ-admission 99999"), int64(-1))
	f.Add([]byte{}, int64(1))
	f.Fuzz(func(t *testing.T, b []byte, counted int64) {
		entries, whole, err := parseLog(b, counted, s.roots)
		if err != nil {
			if entries != nil || whole != 0 {
				t.Errorf("entries beside the error %v", err)
			}
			return
		}
		if whole < len(b) && int64(len(entries)) != counted {
			t.Errorf("%d bytes left after %d entries, %d are counted", len(b)-whole, len(entries), counted)
		}
		var again []byte
		prev := key.Hash{}
		for i, e := range entries {
			if e.Admission.Log != int64(i)+1 || e.Admission.Prev != prev || e.Admission.Network != s.w.Network {
				t.Errorf("entry %d is not the next of this network's log", i+1)
			}
			prev = e.Admission.Hash()
			again = append(fmt.Appendf(again, "writ-admission %d %x\n", len(e.Note), sha256.Sum256(e.Note)), e.Note...)
		}
		if !bytes.Equal(again, b[:whole]) {
			t.Errorf("read\n%q\nwritten again\n%q", b[:whole], again)
		}
	})
}
