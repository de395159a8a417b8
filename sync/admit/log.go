package admit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/statefile"
	"github.com/writmesh/writ/coordinator/trust"
)

// A Log is the admission log: every admission that this network's sync has
// signed, each naming the hash of the one before it. It is the inventory.
//
// The file holds, for each admission, a line
//
//	writ-admission LENGTH SHA256
//
// and the signed note. A head file beside it (package statefile) counts them and
// has the hash of the last; it is written after the log, and an admission that it
// does not count is shown to nobody. A log may therefore hold one more than the
// head counts, whole or torn, where the machine stopped in between; it never holds
// fewer, and never two more. Each is refused: what is missing then was shown.
type Log struct {
	// set at construction
	file *os.File
	head string // path of the head file

	entries []Entry
	byNode  map[key.NodeID]int // newest entry of each identity key
	pending *Entry             // on the disk, and not counted by the head yet
	broken  error              // why what the file holds is not known any more
}

// An Entry is one admission with its signatures.
type Entry struct {
	Admission *papers.Admission
	Note      []byte
}

type headState struct {
	Count int64    `json:"count"`
	Hash  key.Hash `json:"hash"`
}

const (
	headKind = "admission-head"

	// maxLog is the largest log read, in bytes: some two million admissions.
	maxLog = 2 << 30
)

// ErrLost says that the log has fewer admissions than were signed.
var ErrLost = errors.New("the admission log has lost entries; nothing is admitted until it is recovered")

// OpenLog reads and verifies the log in the directory. A last entry that was not
// written whole, and that the head does not count, was never shown to anybody
// and is cut off.
func OpenLog(dir string, roots []*trust.Root) (*Log, error) {
	path := filepath.Join(dir, "admissions.log")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("admission log: %w", err)
	}
	l := &Log{file: f, head: filepath.Join(dir, "admissions.head"), byNode: map[key.NodeID]int{}}
	if err := l.read(roots); err != nil {
		f.Close()
		return nil, fmt.Errorf("admission log %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) read(roots []*trust.Root) error {
	b, err := io.ReadAll(io.LimitReader(l.file, maxLog+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > maxLog {
		return fmt.Errorf("more than %d bytes", int64(maxLog))
	}
	head, counted, err := l.readHead()
	if err != nil {
		return err
	}
	entries, whole, err := parseLog(b, counted, roots)
	if err != nil {
		return err
	}
	for _, e := range entries {
		l.add(e)
	}
	switch n := int64(len(entries)); {
	case n < counted:
		return fmt.Errorf("%d entries, %d were signed: %w", n, counted, ErrLost)
	case n > counted+1:
		return fmt.Errorf("%d entries, and %s counts %d: that file is gone, or an old one", n, l.head, counted)
	case head.Count > 0 && entries[head.Count-1].Admission.Hash() != head.Hash:
		return fmt.Errorf("entry %d is not the one signed: %w", head.Count, ErrLost)
	}
	if whole < len(b) {
		if err := l.file.Truncate(int64(whole)); err != nil {
			return err
		}
	}
	if _, err := l.file.Seek(int64(whole), io.SeekStart); err != nil {
		return err
	}
	if l.Len() != head.Count {
		return l.writeHead(l.Len(), l.Head())
	}
	return nil
}

// readHead reads the head file, and says how many entries it counted when it was
// last written. Each writing counts one more than the one before: where only the
// copy before it is whole, one more was counted than that says.
func (l *Log) readHead() (head headState, counted int64, err error) {
	content, err := statefile.Read(l.head, headKind)
	var damaged *statefile.Damaged
	restored := errors.As(err, &damaged) && damaged.Restored
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return head, 0, nil
	case err != nil && !restored:
		return head, 0, err
	}
	if err := json.Unmarshal(content, &head); err != nil {
		return head, 0, fmt.Errorf("%s: %w", l.head, err)
	}
	if head.Count < 1 {
		return head, 0, fmt.Errorf("%s: counts %d", l.head, head.Count)
	}
	counted = head.Count
	if restored {
		counted++
	}
	return head, counted, nil
}

// parseLog reads and verifies entries, and says how many bytes those take that
// are whole. What follows the entries counted may be torn; nothing before.
func parseLog(b []byte, counted int64, roots []*trust.Root) (entries []Entry, whole int, err error) {
	prev := key.Hash{}
	for whole < len(b) {
		n := int64(len(entries)) + 1
		note, size, err := cutEntry(b[whole:])
		if err != nil {
			if n == counted+1 && torn(b[whole:]) {
				break
			}
			return nil, 0, fmt.Errorf("entry %d: %w", n, err)
		}
		a, err := openUnderAny(note, roots)
		if err != nil {
			return nil, 0, fmt.Errorf("entry %d: %w", n, err)
		}
		if err := follows(a, n, prev); err != nil {
			return nil, 0, err
		}
		entries = append(entries, Entry{a, bytes.Clone(note)})
		prev = a.Hash()
		whole += size
	}
	return entries, whole, nil
}

const (
	headerWord = "writ-admission"

	// maxHeader is the longest header line: the word, five digits, a hash.
	maxHeader = len(headerWord) + 1 + 5 + 1 + 2*sha256.Size + 1
)

// errTorn says that an entry ends before it should.
var errTorn = errors.New("ends too early")

// torn reports whether b is the beginning of one entry, as a machine that stopped
// leaves it: some of its bytes, and then perhaps zeros, where the file system had
// grown the file and not yet written it.
func torn(b []byte) bool {
	b = bytes.TrimRight(b, "\x00")
	_, _, err := cutEntry(b)
	return len(b) == 0 || errors.Is(err, errTorn)
}

// cutEntry reads the first entry of b and says how long it is.
func cutEntry(b []byte) (note []byte, n int, err error) {
	line, _, ok := bytes.Cut(b[:min(len(b), maxHeader)], []byte("\n"))
	if !ok {
		begun := strings.HasPrefix(headerWord+" ", string(line)) || strings.HasPrefix(string(line), headerWord+" ")
		if begun && len(b) < maxHeader {
			return nil, 0, errTorn
		}
		return nil, 0, errors.New("no header")
	}
	f := strings.Split(string(line), " ")
	if len(f) != 3 || f[0] != headerWord {
		return nil, 0, errors.New("no header")
	}
	size, err := strconv.Atoi(f[1])
	if err != nil || strconv.Itoa(size) != f[1] || size < 1 || size > papers.MaxAdmission {
		return nil, 0, errors.New("no length")
	}
	rest := b[len(line)+1:]
	if len(rest) < size {
		return nil, 0, errTorn
	}
	note = rest[:size]
	if f[2] != fmt.Sprintf("%x", sha256.Sum256(note)) {
		return nil, 0, errors.New("checksum does not match")
	}
	return note, len(line) + 1 + size, nil
}

// openUnderAny verifies an entry under the newest root document that named its
// key: what was admitted under an older one stays in the log.
func openUnderAny(note []byte, roots []*trust.Root) (a *papers.Admission, err error) {
	err = errors.New("no root document")
	for i := len(roots) - 1; i >= 0; i-- {
		if a, err = papers.OpenAdmission(note, roots[i]); err == nil {
			return a, nil
		}
	}
	return nil, err
}

// follows checks that a is number n of the log, after the one with the hash prev.
func follows(a *papers.Admission, n int64, prev key.Hash) error {
	if a.Log != n {
		return fmt.Errorf("entry %d calls itself %d", n, a.Log)
	}
	if a.Prev != prev {
		return fmt.Errorf("entry %d does not follow the one before it", n)
	}
	return nil
}

func (l *Log) add(e Entry) {
	l.entries = append(l.entries, e)
	l.byNode[e.Admission.Identity.NodeID()] = len(l.entries) - 1
}

// Append writes an admission; when it returns nil the admission is on the disk
// and may be shown. Where only the head could not be written, the admission is in
// the log and shows up when settle next succeeds.
func (l *Log) Append(a *papers.Admission, note []byte) error {
	if err := l.settle(); err != nil {
		return err
	}
	if err := follows(a, l.Len()+1, l.Head()); err != nil {
		return fmt.Errorf("admission log: %w", err)
	}
	b := fmt.Appendf(nil, "%s %d %x\n", headerWord, len(note), sha256.Sum256(note))
	at, err := l.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("admission log: %w", err)
	}
	if _, err := l.file.Write(append(b, note...)); err != nil {
		terr := l.file.Truncate(at)
		if _, serr := l.file.Seek(at, io.SeekStart); terr != nil || serr != nil {
			l.broken = err
		}
		return fmt.Errorf("admission log: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		l.broken = err // what is on the disk, only a new start can tell
		return fmt.Errorf("admission log: %w", err)
	}
	l.pending = &Entry{a, note}
	return l.settle()
}

// settle makes the head count the last entry, where that was not done yet.
func (l *Log) settle() error {
	if l.broken != nil {
		return fmt.Errorf("admission log: not written any more until sync is started again: %w", l.broken)
	}
	if l.pending == nil {
		return nil
	}
	if err := l.writeHead(l.Len()+1, l.pending.Admission.Hash()); err != nil {
		return fmt.Errorf("admission log: %w", err)
	}
	l.add(*l.pending)
	l.pending = nil
	return nil
}

func (l *Log) writeHead(count int64, hash key.Hash) error {
	b, err := json.Marshal(headState{count, hash})
	if err != nil {
		return err
	}
	return statefile.Write(l.head, headKind, b)
}

// Head is the hash of the last admission; zero for an empty log.
func (l *Log) Head() key.Hash {
	if len(l.entries) == 0 {
		return key.Hash{}
	}
	return l.entries[len(l.entries)-1].Admission.Hash()
}

// Len is the number of admissions.
func (l *Log) Len() int64 { return int64(len(l.entries)) }

// After are the admissions after number n.
func (l *Log) After(n int64) []Entry {
	if n < 0 || n >= l.Len() {
		return nil
	}
	return l.entries[n:]
}

// Newest is the newest admission of an identity key.
func (l *Log) Newest(id key.NodeID) (Entry, bool) {
	i, ok := l.byNode[id]
	if !ok {
		return Entry{}, false
	}
	return l.entries[i], true
}

// Nodes are the newest admissions of all identity keys, in the log's order.
func (l *Log) Nodes() []Entry {
	var out []Entry
	for i, e := range l.entries {
		if l.byNode[e.Admission.Identity.NodeID()] == i {
			out = append(out, e)
		}
	}
	return out
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }
