package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
)

// A setup is the body of frameSetup.
type setup struct {
	Memory int64  `json:"memory"` // bytes
	CPU    uint64 `json:"cpu"`    // seconds
	Frame  int    `json:"frame"`  // bytes
}

// Exit codes of a child; its parent judges by what it heard, these are for
// whoever runs it by hand.
const (
	exitDone    = 0 // file 3 ended
	exitRefused = 2 // not started by Start, or not confined
	exitPanic   = 3 // a handler panicked
)

// stackLimit is how far one goroutine's stack may grow. A stack is doubled by
// copying, so a quarter of the memory is as much as fits.
func stackLimit(memory int64) int64 { return memory / 4 }

// maxProcs bounds what the runtime keeps per processor, so that a policy which
// fits on a laptop fits on a large server.
const maxProcs = 4

// serve is the child's life. It returns the exit code.
func serve(handlers map[string]Handler) int {
	requests, responses := os.NewFile(3, "requests"), os.NewFile(4, "responses")
	if requests == nil || responses == nil {
		fmt.Fprintln(os.Stderr, "writ-sandbox is started by another program, not by hand")
		return exitRefused
	}
	t, body, err := readFrame(requests, 4096)
	if err != nil || t != frameSetup {
		fmt.Fprintln(os.Stderr, "writ-sandbox is started by another program, not by hand")
		return exitRefused
	}
	s, err := parseSetup(body)
	if err == nil {
		runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
		debug.SetTraceback("single")
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(s.Memory / 8 * 7)
		debug.SetMaxStack(int(stackLimit(s.Memory)))
		err = confine(s)
	}
	if err != nil {
		writeFrame(responses, frameRefused, []byte(err.Error()))
		return exitRefused
	}
	if err := writeFrame(responses, frameReady); err != nil {
		return exitRefused
	}

	// The reader always reads, so that the end of file 3 ends the process also
	// while a handler runs. The parent never sends a call before it has the
	// last answer.
	calls := make(chan call)
	go func() {
		for {
			t, body, err := readFrame(requests, s.Frame+slack)
			if err != nil {
				os.Exit(exitDone)
			}
			c, err := parseCall(body)
			if t != frameCall || err != nil {
				os.Exit(exitRefused)
			}
			calls <- c
		}
	}()
	for c := range calls {
		t, body := answer(handlers[c.name], c)
		if t == frameAnswer && len(body) > s.Frame {
			t, body = frameFailed, fmt.Appendf(nil, "%s: response of %d bytes is over the limit of %d", c.name, len(body), s.Frame)
		}
		if t != frameAnswer && len(body) > maxText {
			body = append(body[:maxText:maxText], "…"...)
		}
		if err := writeFrame(responses, t, body); err != nil {
			return exitDone // the parent is gone
		}
		if t == framePanicked {
			return exitPanic
		}
	}
	return exitDone
}

// maxText bounds an error's text: a thousand problems of one line each.
const maxText = 256 << 10

func parseSetup(body []byte) (s setup, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("setup: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return s, fmt.Errorf("setup: %w: more than one value", errFrame)
	}
	if s.Memory < minMemory || s.CPU == 0 || s.Frame <= 0 {
		return s, fmt.Errorf("setup: %w: a limit is missing", errFrame)
	}
	return s, nil
}

// answer runs the handler.
func answer(h Handler, c call) (t frameType, body []byte) {
	if h == nil {
		return frameFailed, fmt.Appendf(nil, "no handler named %q", c.name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.budget)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			t, body = framePanicked, fmt.Appendf(nil, "panic in %s: %v\n\n%s", c.name, p, debug.Stack())
		}
	}()
	response, err := h(ctx, c.request)
	if err != nil {
		return frameFailed, []byte(err.Error())
	}
	return frameAnswer, response
}
