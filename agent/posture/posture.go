// Package posture says what a node reports of itself in its record: attributes
// that rules may ask for (acl.Posture).
//
//	os             the system: "linux", "macos", "windows", or as Go calls it
//	osVersion      its version: VERSION_ID of os-release(5), such as "13"
//	agentVersion   this program's, without a leading "v"
//	custom:NAME    what a file of the administrator's says: a JSON object of
//	               texts, {"diskEncrypted": "true"}
//
// All of it is the node's own word: it keeps honest nodes from doing what their
// state does not allow, and a dishonest one from nothing. What cannot be found
// out is not reported, so that no rule that asks for it holds; a file that cannot
// be read, or has anything in it that a record cannot hold, reports nothing.
package posture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/papers"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 64 << 10

// A Source is where the attributes come from.
type Source struct {
	Version string // of the agent
	File    string // of custom attributes; empty: there are none

	osRelease []string // files, the first that is there; nil: the system's
}

// Read finds out the attributes. The error is about the file; what is known
// without it is returned with it.
func (s Source) Read() (map[string]string, error) {
	out := map[string]string{"os": system(runtime.GOOS)}
	add := func(attr, value string) {
		if acl.CheckAttrValue(value) == nil {
			out[attr] = value
		}
	}
	add("osVersion", s.osVersion())
	add("agentVersion", strings.TrimPrefix(s.Version, "v"))
	if s.File == "" {
		return out, nil
	}
	custom, err := readCustom(s.File)
	if err == nil && len(custom)+len(out) > papers.MaxPosture {
		err = fmt.Errorf("%d attributes, at most %d", len(custom), papers.MaxPosture-len(out))
	}
	if err != nil {
		return out, fmt.Errorf("posture file %s: %w", s.File, err)
	}
	for attr, value := range custom {
		out[attr] = value
	}
	return out, nil
}

// system is what policies call a system that Go knows by this name.
func system(goos string) string {
	if goos == "darwin" {
		return "macos"
	}
	return goos
}

func (s Source) osVersion() string {
	files := s.osRelease
	if files == nil && runtime.GOOS == "linux" {
		files = []string{"/etc/os-release", "/usr/lib/os-release"} // os-release(5)
	}
	for _, name := range files {
		b, err := readFile(name)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "VERSION_ID="); ok {
				return strings.Trim(v, `"'`)
			}
		}
		return ""
	}
	return ""
}

func readCustom(name string) (map[string]string, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	return parseCustom(b)
}

// parseCustom reads a JSON object of texts.
func parseCustom(b []byte) (map[string]string, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	out := map[string]string{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("not a JSON object")
		}
		attr := "custom:" + name
		if err := acl.CheckAttr(attr); err != nil {
			return nil, err
		}
		if _, twice := out[attr]; twice {
			return nil, fmt.Errorf("%q stands there twice", name)
		}
		var value string
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("%q: want a text in quotes", name)
		}
		if err := acl.CheckAttrValue(value); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		out[attr] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not a JSON object")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something after the JSON object")
	}
	return out, nil
}

// readFile reads a small regular file.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return b, err
}

// Interval is how often Watch looks again: a disk is not encrypted, nor a system
// upgraded, faster than somebody waits for it to count.
const Interval = 30 * time.Second

// Watch reports the attributes at once and whenever they change, until ctx ends.
// An error of the file is told when it is a new one.
func (s Source) Watch(ctx context.Context, report func(map[string]string, error)) error {
	told := "nothing yet"
	ticks := time.NewTicker(Interval)
	defer ticks.Stop()
	for {
		attrs, err := s.Read()
		if now := fmt.Sprint(attrs, err); now != told { // fmt sorts maps
			told = now
			report(attrs, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
}
