package rego

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/writmesh/writ/cue/model"
)

// Format is a module as everybody writes it. The error is [model.Problems] if it
// does not parse. What is formatted is formatted to itself.
func Format(file string, source []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, model.Problems{{Place: model.Place{File: file}, Message: fmt.Sprintf("this module cannot be formatted: %v", r)}}
		}
	}()
	if len(source) > maxFile {
		return nil, model.Problems{{Place: model.Place{File: file}, Message: fmt.Sprintf("larger than %d bytes", maxFile)}}
	}
	options := ast.ParserOptions{Capabilities: capabilities(), RegoVersion: ast.RegoV1, ProcessAnnotation: true}
	out, err = format.SourceWithOpts(file, source, format.Opts{
		RegoVersion: ast.RegoV1, ParserOptions: &options, Capabilities: capabilities(),
	})
	if err != nil {
		var problems model.Problems
		addErrors(&problems, file, err)
		return nil, problems.Err()
	}
	return out, nil
}
