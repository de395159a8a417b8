package lint

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

const ignoreMark = "// lint:ignore "

// maxIgnoreFile bounds a file that is searched for comments: people write them in
// files that people write.
const maxIgnoreFile = 4 << 20

// ignore leaves out what comments on the line above ignore, and finds comments
// that say no reason or ignore nothing. Only files that findings are about, or that
// have such comments, are looked at.
func (l *linter) ignore() {
	if l.Tree == nil {
		return
	}
	type comment struct {
		id, reason string
		used       bool
	}
	comments := map[model.Place]*comment{} // by file and the line that is ignored
	var order []model.Place
	err := fs.WalkDir(l.Tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".cue") {
			return err
		}
		text, err := fs.ReadFile(l.Tree, name)
		if err != nil || len(text) > maxIgnoreFile || !bytes.Contains(text, []byte(ignoreMark)) {
			return err
		}
		n := 0
		for line := range bytes.Lines(text) {
			n++
			rest, ok := strings.CutPrefix(strings.TrimSpace(string(line)), ignoreMark)
			if !ok {
				continue
			}
			id, reason, _ := strings.Cut(strings.TrimSpace(rest), " ")
			at := model.Place{File: name, Line: n + 1}
			comments[at] = &comment{id: id, reason: strings.TrimSpace(reason)}
			order = append(order, at)
		}
		return nil
	})
	if err != nil {
		return // the tree is in memory and was read before; then nothing is ignored
	}
	l.out = slices.DeleteFunc(l.out, func(f Finding) bool {
		c := comments[model.Place{File: f.Place.File, Line: f.Place.Line}]
		if c == nil || c.id != f.ID {
			return false
		}
		c.used = true
		return c.reason != ""
	})
	for _, at := range order {
		c := comments[at]
		place := model.Place{File: at.File, Line: at.Line - 1, Col: 1}
		switch {
		case c.reason == "":
			l.add(Finding{ID: "ignore", Level: Warning, Place: place, Text: fmt.Sprintf("lint:ignore %s says no reason", c.id), Hint: "// lint:ignore ID REASON"})
		case !c.used:
			l.add(Finding{ID: "ignore", Level: Note, Place: place, Text: fmt.Sprintf("lint:ignore %s ignores nothing", c.id), Hint: "take it away"})
		}
	}
}
