package model

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxFiles   = 2000     // of a policy; a checkout walks them on every change
	maxBytes   = 16 << 20 // of all of them; 100,000 users in groups are 4 MiB
	maxEntries = 100_000  // of the whole tree, whatever they are
)

// A source is one file of the policy.
type source struct {
	name     string
	text     []byte
	notation notation
}

// A notation is how a source is written.
type notation uint8

const (
	inCUE notation = iota
	inJSON
	inYAML
)

// folders are the folders at the root that mean something. One that is called the
// same but for its case means nothing, is the same on some systems, and is not what
// whoever reviews changes to these folders looks at.
var folders = []string{"cue.mod", "data", "generate", "guard", "teams", "trust"}

// readFiles reads what is policy in fsys, sorted by name, and names what
// cannot be.
func readFiles(fsys fs.FS) ([]source, Problems, error) {
	w := walk{fsys: fsys}
	err := fs.WalkDir(fsys, ".", w.visit)
	switch {
	case err != nil && len(w.problems) == 0:
		return nil, nil, fmt.Errorf("read policy: %w", err)
	case len(w.sources) == 0 && len(w.problems) == 0:
		w.problems.Add(Place{}, "no .cue file: a policy is written in files of package network")
	}
	slices.SortFunc(w.sources, func(a, b source) int { return strings.Compare(a.name, b.name) })
	return w.sources, w.warnings, w.problems.Err()
}

type walk struct {
	fsys     fs.FS
	sources  []source
	entries  int
	bytes    int64
	problems Problems
	warnings Problems
}

func (w *walk) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if w.entries++; w.entries > maxEntries {
		w.problems.Add(Place{}, "more than %d files and folders", maxEntries)
		return fs.SkipAll
	}
	if d.IsDir() {
		switch name {
		case "trust", "cue.mod", ".git":
			return fs.SkipDir
		}
		return nil
	}
	at := Place{File: name}
	odd := slices.ContainsFunc([]rune(name), func(r rune) bool { return !plainRune(r) })
	if odd {
		at.File = quoteName(name)
	}
	ext := strings.ToLower(path.Ext(name))
	top, _, nested := strings.Cut(name, "/")
	if !nested {
		top = ""
	}
	lower := strings.ToLower(top)
	isData := ext == ".json" || ext == ".yaml" || ext == ".yml"
	switch isPolicy := ext == ".cue" || ext == ".rego"; {
	case !d.Type().IsRegular():
		if name == ".git" || name == "trust" || name == "cue.mod" {
			return nil // a linked work tree's .git is a file; the others are not read here
		}
		w.problems.Add(at, "not a regular file (%s): a policy has no links, devices or the like", d.Type().Type())
	case odd && (isPolicy || top == "data" || top == "generate"):
		w.problems.Add(at, "the file's name has characters that do not show")
	case lower != top && slices.Contains(folders, lower):
		w.problems.Add(at, "the folder is written %s", lower)
	case isPolicy && hidden(name):
		w.problems.Add(at, "policy in a hidden file or folder is not read; rename it or move it")
	case hidden(name):
	case top == "teams" && (isData || ext == ".rego"):
		w.problems.Add(at, "a team writes CUE only; lists go to data/, guards to guard/, computed rules to generate/, which are the network's own")
	case top == "teams" && ext == ".cue" && strings.Count(name, "/") < 2:
		w.problems.Add(at, "this file belongs to no team; move it to teams/NAME/, or out of teams/")
	case ext == ".rego" && top != "guard" && top != "generate":
		w.problems.Add(at, "Rego is read under guard/ and generate/ only")
	case ext == ".cue" && (top == "guard" || top == "generate"):
		w.problems.Add(at, "CUE is not read under %s/; move it", top)
	case ext == ".cue" && path.Ext(name) != ".cue", ext == ".rego" && path.Ext(name) != ".rego":
		w.problems.Add(at, "the extension is written %s", ext)
	case ext == ".cue":
		return w.read(name, inCUE)
	case ext == ".json" && top == "data":
		return w.read(name, inJSON)
	case isData && top == "data":
		return w.read(name, inYAML)
	case isData && top != "guard" && top != "generate":
		w.warnings = append(w.warnings, Problem{Place: at, Message: "not read as policy", Hint: "plain data is read from data/*.json and data/*.yaml"})
	}
	return nil
}

// hidden reports whether a part of the name begins with a dot.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

func (w *walk) read(name string, in notation) error {
	at := Place{File: name}
	if len(w.sources) == maxFiles {
		w.problems.Add(at, "more than %d files of policy", maxFiles)
		return fs.SkipAll
	}
	f, err := w.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes-w.bytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if w.bytes += int64(len(text)); w.bytes > maxBytes {
		w.problems.Add(at, "more than %d MiB of policy", maxBytes>>20)
		return fs.SkipAll
	}
	switch {
	case bytes.HasPrefix(text, []byte{0xfe, 0xff}), bytes.HasPrefix(text, []byte{0xff, 0xfe}):
		w.problems.Add(at, "the file is UTF-16; save it as UTF-8")
	case !utf8.Valid(text):
		w.problems.Add(lineOf(name, text, invalidAt(text)), "not UTF-8")
	case bytes.IndexByte(text, 0) >= 0:
		w.problems.Add(lineOf(name, text, bytes.IndexByte(text, 0)), "a NUL byte")
	default:
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
		w.sources = append(w.sources, source{name, text, in})
	}
	return nil
}

// invalidAt is the offset of the first byte that is not UTF-8.
func invalidAt(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

func lineOf(name string, text []byte, offset int) Place {
	before := text[:max(0, offset)]
	return Place{name, bytes.Count(before, []byte{'\n'}) + 1, len(before) - bytes.LastIndexByte(before, '\n')}
}
