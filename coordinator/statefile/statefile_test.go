package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kind = "netmap"

// vector is a file as the package comment describes it, put together by hand.
// The hash is that of "abc" in FIPS 180-2, appendix B.1.
const vector = "writ-state/1 netmap 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nabc"

func TestFormat(t *testing.T) {
	if got := Encode(kind, []byte("abc")); string(got) != vector {
		t.Errorf("encode: got %q, want %q", got, vector)
	}
	if got, err := Decode(kind, []byte(vector)); err != nil || string(got) != "abc" {
		t.Errorf("decode: got %q, %v, want abc", got, err)
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	file := Encode(kind, []byte(strings.Repeat("{\"a\":1}\n", 16)))
	for i := range file {
		for bit := range 8 {
			damaged := bytes.Clone(file)
			damaged[i] ^= 1 << bit
			if got, err := Decode(kind, damaged); err == nil {
				t.Errorf("bit %d of byte %d flipped: got %q, want an error", bit, i, got)
			}
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	file := Encode(kind, []byte(strings.Repeat("x\n", 32)))
	for n := range file {
		if got, err := Decode(kind, file[:n]); err == nil {
			t.Errorf("%d of %d bytes: got %q, want an error", n, len(file), got)
		}
		if got, err := Decode(kind, file[len(file)-n:]); err == nil {
			t.Errorf("the last %d of %d bytes: got %q, want an error", n, len(file), got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("abc")))
	for _, test := range []struct{ name, file, want string }{
		{"nothing", "", "no header"},
		{"no header", "abc", "no header"},
		{"another magic", "writ-state/2 netmap 3 " + sum + "\nabc", "no header"},
		{"another kind", "writ-state/1 admit 3 " + sum + "\nabc", `holds "admit", want "netmap"`},
		{"a length with a sign", "writ-state/1 netmap +3 " + sum + "\nabc", "no length"},
		{"a length with a zero before it", "writ-state/1 netmap 03 " + sum + "\nabc", "no length"},
		{"a length that is no number", "writ-state/1 netmap x " + sum + "\nabc", "no length"},
		{"a length past every integer", "writ-state/1 netmap 99999999999999999999 " + sum + "\nabc", "no length"},
		{"a negative length", "writ-state/1 netmap -3 " + sum + "\nabc", "bytes after the end"},
		{"too few bytes", "writ-state/1 netmap 4 " + sum + "\nabc", "truncated: 3 of 4 bytes"},
		{"too many bytes", "writ-state/1 netmap 2 " + sum + "\nabc", "1 bytes after the end"},
		{"another hash", "writ-state/1 netmap 3 " + strings.Repeat("0", 64) + "\nabc", "checksum does not match"},
		{"a hash in upper case", "writ-state/1 netmap 3 " + strings.ToUpper(sum) + "\nabc", "checksum does not match"},
		{"another word", "writ-state/1 netmap 3 " + sum + " \nabc", "no header"},
		{"a carriage return", "writ-state/1 netmap 3 " + sum + "\r\nabc", "checksum does not match"},
		{"a header without end", strings.Repeat("x", 300) + "\nabc", "no header"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := Decode(kind, []byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := Write(path, kind, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWriteKeepsTheCopyBeforeAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "netmap.state")
	for i, want := range []string{"", "one", "two"} {
		content := []string{"one", "two", "three"}[i]
		write(t, path, content)
		if got, err := Read(path, kind); err != nil || string(got) != content {
			t.Errorf("got %q, %v, want %q", got, err, content)
		}
		prev, err := os.ReadFile(path + ".prev")
		if want == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after the first write there is a copy before it: %q, %v", prev, err)
			}
			continue
		}
		if !bytes.Equal(prev, Encode(kind, []byte(want))) {
			t.Errorf("the copy before is %q, %v, want %q", prev, err, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "netmap.state" && e.Name() != "netmap.state.prev" || info.Mode() != 0o600 {
			t.Errorf("got file %s with mode %v, want the two copies with mode 0600", e.Name(), info.Mode())
		}
	}
}

// TestStopAtEachStepLeavesAWholeCopy does what Write does one step after another
// and reads after each, as if the machine had stopped there.
func TestStopAtEachStepLeavesAWholeCopy(t *testing.T) {
	for _, before := range []string{"first write", "later writes", "with a copy that is damaged"} {
		t.Run(before, func(t *testing.T) {
			dir := t.TempDir()
			path, tmp := filepath.Join(dir, "netmap.state"), filepath.Join(dir, ".netmap.state.1")
			read := func(step, want string) {
				t.Helper()
				got, err := Read(path, kind)
				if want == "" {
					if !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("stopped %s: got %q, %v, want no state yet", step, got, err)
					}
					return
				}
				if err != nil || string(got) != want {
					t.Errorf("stopped %s: got %q, %v, want %q", step, got, err, want)
				}
			}
			old := ""
			if before != "first write" {
				write(t, path, "older")
				write(t, path, "old")
				old = "old"
			}
			if before == "with a copy that is damaged" {
				put(t, path+".prev", []byte("x"))
			}
			file := Encode(kind, []byte("new"))
			for n := range file {
				put(t, tmp, file[:n])
				read("within the write", old)
			}
			put(t, tmp, file)
			read("before the copy", old)
			if err := os.Remove(path + ".prev"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			read("with the older copy removed", old)
			if err := keepPrevious(path, kind); err != nil {
				t.Fatal(err)
			}
			read("with the copy made", old)
			if err := os.Rename(tmp, path); err != nil {
				t.Fatal(err)
			}
			read("after the rename", "new")
			write(t, path, "newer") // what is left over disturbs nobody
			read("later", "newer")
		})
	}
}

// A damaged file never takes the place of the whole copy that was read instead
// of it: the machine may stop before the new one is there.
func TestDamagedFileDoesNotReplaceTheWholeCopy(t *testing.T) {
	for _, damage := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		os.Remove,
	} {
		path := filepath.Join(t.TempDir(), "netmap.state")
		write(t, path, "older")
		write(t, path, "old")
		for range 2 {
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if err := keepPrevious(path, kind); err != nil {
				t.Fatal(err)
			}
			if got, _ := Read(path, kind); string(got) != "older" {
				t.Errorf("stopped before the rename: got %q, want older", got)
			}
			write(t, path, "new")
		}
	}
}

func TestDamageIsReportedAndTheCopyBeforeRead(t *testing.T) {
	whole := Encode(kind, []byte("old"))
	damaged := Encode(kind, []byte("new"))
	damaged[len(damaged)-1] ^= 1
	other := Encode("admit", []byte("new"))
	const absent = "absent"
	for _, test := range []struct {
		name       string
		file, prev any // []byte, or absent
		content    string
		why        string // of a Damaged error
	}{
		{"damaged, with a whole copy", damaged, whole, "old", "checksum does not match"},
		{"empty, with a whole copy", []byte{}, whole, "old", "no header"},
		{"of another kind, with a whole copy", other, whole, "old", `holds "admit"`},
		{"gone, with a whole copy", absent, whole, "old", "no such file"},
		{"damaged, without a copy", damaged, absent, "", "checksum does not match"},
		{"damaged, with a damaged copy", damaged, damaged, "", "checksum does not match"},
		{"gone, with a damaged copy", absent, damaged, "", "no such file"},
		{"whole, with a damaged copy", whole, damaged, "old", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "netmap.state")
			for name, b := range map[string]any{path: test.file, path + ".prev": test.prev} {
				if b, ok := b.([]byte); ok {
					put(t, name, b)
				}
			}
			got, err := Read(path, kind)
			if string(got) != test.content {
				t.Errorf("content: got %q, want %q", got, test.content)
			}
			if test.why == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			var d *Damaged
			if !errors.As(err, &d) || d.Restored != (test.content != "") || !strings.Contains(d.Why, test.why) || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("got error %v, want damage because %q, restored: %v", err, test.why, test.content != "")
			}
			if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), ".prev") != d.Restored {
				t.Errorf("the message does not name what was read: %v", err)
			}
		})
	}
}

func TestMissingIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netmap.state")
	if got, err := Read(path, kind); !errors.Is(err, fs.ErrNotExist) || got != nil {
		t.Errorf("got %q, %v, want fs.ErrNotExist", got, err)
	}
}

func TestWhatIsNotAFileIsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netmap.state")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	var d *Damaged
	if _, err := Read(path, kind); !errors.As(err, &d) || d.Restored {
		t.Errorf("read a directory: got %v, want damage", err)
	}
	if err := Write(path, kind, []byte("x")); err == nil {
		t.Error("wrote over a directory, want an error")
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("a write that went wrong left %v behind", entries)
	}
	if err := Write(filepath.Join(path, "no", "state"), kind, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write into a directory that is not there: got %v, want fs.ErrNotExist", err)
	}
}

// FuzzDecode: what is read is exactly what Encode writes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(vector))
	f.Add([]byte(""))
	f.Add([]byte("writ-state/1 netmap 0 " + hex.EncodeToString(make([]byte, 32)) + "\n"))
	f.Add(Encode(kind, nil))
	f.Add(Encode("admit", []byte("abc")))
	f.Add([]byte("writ-state/1 netmap 3\nabc"))
	f.Fuzz(func(t *testing.T, file []byte) {
		content, err := Decode(kind, file)
		if err != nil {
			return
		}
		if again := Encode(kind, content); !bytes.Equal(again, file) {
			t.Errorf("%q is read as %q, whose file is %q", file, content, again)
		}
	})
}
