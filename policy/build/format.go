package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/rego"
	"github.com/writmesh/writ/policy/sandbox"
)

const formatHandler = "format"

// formatted is a file on its way to the child and back.
type formatted struct {
	Name     string         `json:"name"`
	Text     []byte         `json:"text,omitempty"`
	Problems model.Problems `json:"problems,omitempty"`
}

// A Formatter writes CUE and Rego as everybody writes it, in a child process: the
// parsers recurse over what they read.
type Formatter struct{ child *sandbox.Child }

// NewFormatter starts the child.
func NewFormatter(ctx context.Context) (*Formatter, error) {
	child, err := sandbox.Start(ctx, sandbox.Limits{})
	if err != nil {
		return nil, err
	}
	return &Formatter{child}, nil
}

// Close ends the child.
func (f *Formatter) Close() error { return f.child.Close() }

// Format formats one file, whose name says what it is. The error is model.Problems
// where it does not parse.
func (f *Formatter) Format(ctx context.Context, name string, text []byte) ([]byte, error) {
	b, err := json.Marshal(formatted{Name: name, Text: text})
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	answer, err := f.child.Call(ctx, formatHandler, b)
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", name, err)
	}
	var out formatted
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("format %s: the child's answer: %w", name, err)
	}
	return out.Text, out.Problems.Err()
}

// format runs in the child.
func format(_ context.Context, request []byte) ([]byte, error) {
	var f formatted
	if err := json.Unmarshal(request, &f); err != nil {
		return nil, err
	}
	var err error
	if path.Ext(f.Name) == ".rego" {
		f.Text, err = rego.Format(f.Name, f.Text)
	} else {
		f.Text, err = model.Format(f.Name, f.Text)
	}
	if err != nil && !errors.As(err, &f.Problems) {
		f.Problems = model.Problems{{Place: model.Place{File: f.Name}, Message: err.Error()}}
	}
	return json.Marshal(f)
}
