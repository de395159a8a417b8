package rego

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/writmesh/writ/cue/model"
)

// Files are the guards of a policy tree and their tests, by path. Rego that is
// neither a guard nor a generator is a problem, for a guard in "guards/" guards
// nothing. Names that begin with a dot are not looked into.
func Files(tree fs.FS) (map[string][]byte, error) { return guardKind.files(tree) }

// GeneratorFiles are the generators of a policy tree and their tests, by path.
func GeneratorFiles(tree fs.FS) (map[string][]byte, error) { return generateKind.files(tree) }

// files are the files of one kind. What is of neither kind, guards tell.
func (k *kind) files(tree fs.FS) (map[string][]byte, error) {
	files := make(map[string][]byte)
	var problems model.Problems
	total := 0
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != "." && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || path.Ext(name) != ".rego" {
			return nil
		}
		at := model.Place{File: name}
		switch dir := path.Dir(name); {
		case dir == k.dir:
		case dir == guardKind.dir || dir == generateKind.dir || k != guardKind:
			return nil // the other kind's
		default:
			problems = append(problems, model.Problem{Place: at, Message: "Rego outside guard/ and generate/ is not evaluated",
				Hint: "guards are the files guard/NAME.rego, computed rules come from generate/NAME.rego"})
			return nil
		}
		if !d.Type().IsRegular() {
			problems.Add(at, "not a regular file")
			return nil
		}
		if len(files) == maxFiles {
			problems.Add(at, "more than %d Rego files", maxFiles)
			return fs.SkipAll
		}
		b, err := readLimited(tree, name)
		if err != nil {
			return err
		}
		if len(b) > maxFile {
			problems.Add(at, "larger than %d bytes", maxFile)
			return nil
		}
		if total += len(b); total > maxTotal {
			problems.Add(at, "the Rego files together are larger than %d bytes", maxTotal)
			return fs.SkipAll
		}
		files[name] = b
		return nil
	})
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			problems.Add(model.Place{File: pathError.Path}, "%v", pathError.Err)
			return nil, problems.Err()
		}
		return nil, err
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return files, nil
}

// readLimited reads a file as far as it takes to see that it is too large.
func readLimited(tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}
