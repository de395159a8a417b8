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
// and the signed note. A head file beside it (package statefile) says how many
// there are and the hash of the last; it is written after the log, so that a log
// may hold one more than the head says, where the machine stopped in between, but
// never fewer: a log that is shorter has lost admissions, and is refused.
type Log struct {
	file    *os.File
	head    string // path of the head file
	entries []Entry
	byNode  map[key.NodeID]int // newest entry of each identity key
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
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

func (l *Log) read(roots []*trust.Root) error {
	b, err := io.ReadAll(io.LimitReader(l.file, maxLog+1))
	if err != nil {
		return err
	}
	if len(b) > maxLog {
		return fmt.Errorf("more than %d bytes", maxLog)
	}
	var head headState
	content, err := statefile.Read(l.head, headKind)
	var damaged *statefile.Damaged
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &damaged) && damaged.Restored, err == nil:
		if err := json.Unmarshal(content, &head); err != nil {
			return fmt.Errorf("%s: %w", l.head, err)
		}
	default:
		return err
	}
	whole := 0 // bytes of whole entries
	for whole < len(b) {
		note, n, err := cutEntry(b[whole:])
		if err != nil {
			if int64(len(l.entries)) >= head.Count && errors.Is(err, io.ErrUnexpectedEOF) {
				break // never shown
			}
			return fmt.Errorf("entry %d: %w", len(l.entries)+1, err)
		}
		a, err := openUnderAny(note, roots)
		if err != nil {
			return fmt.Errorf("entry %d: %w", len(l.entries)+1, err)
		}
		if err := l.follows(a); err != nil {
			return err
		}
		l.add(Entry{a, bytes.Clone(note)})
		whole += n
	}
	switch n := int64(len(l.entries)); {
	case n < head.Count:
		return fmt.Errorf("%d entries, %d were signed: %w", n, head.Count, ErrLost)
	case head.Count > 0 && l.entries[head.Count-1].Admission.Hash() != head.Hash:
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
	if n := int64(len(l.entries)); n != head.Count {
		return l.writeHead()
	}
	return nil
}

// cutEntry reads the first entry of b and says how long it is. An entry that
// ends with b, and not as it should, is io.ErrUnexpectedEOF.
func cutEntry(b []byte) (note []byte, n int, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return nil, 0, io.ErrUnexpectedEOF
	}
	f := strings.Split(string(line), " ")
	if len(f) != 3 || f[0] != "writ-admission" {
		return nil, 0, errors.New("no header")
	}
	size, err := strconv.Atoi(f[1])
	if err != nil || size < 0 || size > papers.MaxAdmission {
		return nil, 0, errors.New("no length")
	}
	if len(rest) < size {
		return nil, 0, io.ErrUnexpectedEOF
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

func (l *Log) follows(a *papers.Admission) error {
	if want := int64(len(l.entries)) + 1; a.Log != want {
		return fmt.Errorf("entry %d calls itself %d", want, a.Log)
	}
	if a.Prev != l.Head() {
		return fmt.Errorf("entry %d does not follow the one before it", a.Log)
	}
	return nil
}

func (l *Log) add(e Entry) {
	l.entries = append(l.entries, e)
	l.byNode[e.Admission.Identity.NodeID()] = len(l.entries) - 1
}

// Append writes an admission; when it returns nil the admission is on the disk
// and may be shown.
func (l *Log) Append(a *papers.Admission, note []byte) error {
	if err := l.follows(a); err != nil {
		return fmt.Errorf("admission log: %w", err)
	}
	b := fmt.Appendf(nil, "writ-admission %d %x\n", len(note), sha256.Sum256(note))
	at, err := l.file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = l.file.Write(append(b, note...))
	}
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.file.Truncate(at)
		l.file.Seek(at, io.SeekStart)
		return fmt.Errorf("admission log: %w", err)
	}
	l.add(Entry{a, note})
	return l.writeHead()
}

func (l *Log) writeHead() error {
	b, err := json.Marshal(headState{int64(len(l.entries)), l.Head()})
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
