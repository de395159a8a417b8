package build

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/sandbox"
	"github.com/writmesh/writ/policy/source"
)

const loadHandler = "load"

// loaded is the child's answer: one of its fields.
type loaded struct {
	Policy   *model.Policy  `json:"policy,omitempty"`
	Problems model.Problems `json:"problems,omitempty"`
}

// callLoad has the child load a tree, which travels as an archive.
func callLoad(ctx context.Context, child *sandbox.Child, tree source.Tree) (*model.Policy, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	err := fs.WalkDir(tree.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree.FS, name)
		if err != nil {
			return err
		}
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	answer, err := child.Call(ctx, loadHandler, b.Bytes())
	if err != nil {
		return nil, err
	}
	var l loaded
	if err := json.Unmarshal(answer, &l); err != nil {
		return nil, fmt.Errorf("load policy: the child's answer: %w", err)
	}
	if len(l.Problems) > 0 {
		return nil, l.Problems
	}
	if l.Policy == nil {
		return nil, errors.New("load policy: the child answers with neither a policy nor problems")
	}
	return l.Policy, nil
}

// load runs in the child.
func load(_ context.Context, archive []byte) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, err
	}
	var l loaded
	if l.Policy, err = model.Load(z); err != nil && !errors.As(err, &l.Problems) {
		return nil, err
	}
	if err != nil {
		l.Policy = nil
	}
	return json.Marshal(l)
}
