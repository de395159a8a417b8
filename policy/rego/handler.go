package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/sandbox"
)

// HandlerName is how [Judge] calls [Handler].
const HandlerName = "guard"

// A request is what travels to the child.
type request struct {
	Files map[string][]byte `json:"files"`
	Input *Input            `json:"input"` // nil means that the guards are compiled only
}

// A response is what travels back: one of its fields.
type response struct {
	Result   *Result        `json:"result,omitempty"`
	Problems model.Problems `json:"problems,omitempty"`
}

// Handler evaluates guards inside a sandbox's child.
func Handler(ctx context.Context, message []byte) ([]byte, error) {
	var req request
	if err := strict(message, &req); err != nil {
		return nil, fmt.Errorf("read the guards' request: %w", err)
	}
	var res response
	guards, err := Compile(req.Files)
	if err == nil && req.Input != nil {
		res.Result, err = guards.Evaluate(ctx, *req.Input)
	}
	if err != nil && !errors.As(err, &res.Problems) {
		return nil, err
	}
	return json.Marshal(res)
}

// Judge evaluates guards in the child. The error is [model.Problems] if a guard
// is at fault, and the sandbox's if it did not end by itself.
func Judge(ctx context.Context, child *sandbox.Child, files map[string][]byte, input Input) (*Result, error) {
	res, err := ask(ctx, child, request{Files: files, Input: &input})
	if err != nil {
		return nil, err
	}
	if res.Result == nil {
		return nil, errors.New("evaluate guards: the child answers with neither result nor problems")
	}
	return res.Result, nil
}

// Check compiles guards in the child, and says what is wrong with them.
func Check(ctx context.Context, child *sandbox.Child, files map[string][]byte) error {
	_, err := ask(ctx, child, request{Files: files})
	return err
}

func ask(ctx context.Context, child *sandbox.Child, req request) (res response, err error) {
	message, err := json.Marshal(req)
	if err != nil {
		return res, fmt.Errorf("evaluate guards: %w", err)
	}
	answer, err := child.Call(ctx, HandlerName, message)
	if err != nil {
		return res, fmt.Errorf("evaluate guards: %w", err)
	}
	if err := strict(answer, &res); err != nil {
		return res, fmt.Errorf("evaluate guards: read the child's answer: %w", err)
	}
	return res, res.Problems.Err()
}

// strict decodes JSON that has no other fields and nothing after it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one value")
	}
	return nil
}
