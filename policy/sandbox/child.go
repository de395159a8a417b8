package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// A Child is a confined process that answers calls, as its parent sees it. Its
// methods may be called from several goroutines; calls are served in turn.
type Child struct {
	// set at construction
	limits    Limits
	cmd       *exec.Cmd
	requests  *os.File      // our end of the child's file 3
	responses *os.File      // our end of the child's file 4
	output    *output       // what the child prints
	turn      chan struct{} // holds one token: whoever has it may call
	done      chan struct{} // closed when the child was waited for
	release   func() bool   // stops watching the context of Start

	mu     sync.Mutex
	reason error // guarded by mu: why we killed the child; the first one counts

	left time.Duration // owned by the holder of turn: time still to spend in calls
}

// Start executes this program again as a child under the limits. The child
// lives until [Child.Close], until ctx ends, or until it exceeds a limit. The
// caller must Close it.
func Start(ctx context.Context, limits Limits) (*Child, error) {
	if !hooked.Load() {
		return nil, fmt.Errorf("sandbox: this program does not call sandbox.Main: %w", ErrUnconfined)
	}
	if err := confinable(); err != nil {
		return nil, fmt.Errorf("sandbox: %w: %w", err, ErrUnconfined)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sandbox: start: %w", err)
	}
	limits = limits.withDefaults()
	c := &Child{
		limits: limits,
		output: new(output),
		turn:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		left:   limits.Wall,
	}
	if err := c.execute(); err != nil {
		return nil, fmt.Errorf("sandbox: start: %w", err)
	}
	c.release = context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })
	if err := c.setup(ctx); err != nil {
		c.Close()
		return nil, err
	}
	c.turn <- struct{}{}
	return c, nil
}

// execute starts the process and the goroutine that waits for it.
func (c *Child) execute() error {
	requestsChild, requests, err := os.Pipe()
	if err != nil {
		return err
	}
	responses, responsesChild, err := os.Pipe()
	if err != nil {
		requestsChild.Close()
		requests.Close()
		return err
	}
	c.requests, c.responses = requests, responses
	c.cmd = &exec.Cmd{
		Path:        "/proc/self/exe", // the binary that runs, also when its file was replaced
		Args:        []string{marker},
		Env:         []string{},
		Dir:         "/",
		Stdout:      c.output,
		Stderr:      c.output,
		ExtraFiles:  []*os.File{requestsChild, responsesChild},
		SysProcAttr: attributes(),
		WaitDelay:   2 * time.Second, // nothing outlives the child, so nothing holds its pipes
	}
	err = c.cmd.Start()
	requestsChild.Close()
	responsesChild.Close()
	if err != nil {
		requests.Close()
		responses.Close()
		return err
	}
	go func() {
		defer close(c.done)
		c.cmd.Wait() // the state is read from c.cmd.ProcessState
	}()
	return nil
}

// setup sends the limits and waits until the child is confined.
func (c *Child) setup(ctx context.Context) error {
	body, err := json.Marshal(setup{
		Memory: c.limits.Memory,
		CPU:    uint64(c.limits.CPU / time.Second),
		Frame:  c.limits.Frame,
	})
	if err != nil {
		return fmt.Errorf("sandbox: start: %w", err)
	}
	t, answer, err := c.exchange(ctx, frameSetup, body)
	switch {
	case err != nil:
		return fmt.Errorf("sandbox: start: %w", err)
	case t == frameReady:
		return nil
	case t == frameRefused:
		return fmt.Errorf("sandbox: %s: %w", answer, ErrUnconfined)
	default:
		return fmt.Errorf("sandbox: start: %w: type %d in answer to setup", errFrame, t)
	}
}

// Call has the child's handler of that name compute a response. An error that
// wraps a [*CallError] is the handler's own, and the child lives on. After any
// other error the child is gone: a [*Failure] says which limit it exceeded. A
// call whose ctx ends takes the child with it, for nothing else would stop it.
func (c *Child) Call(ctx context.Context, name string, request []byte) ([]byte, error) {
	if len(name) > 255 || len(request) > c.limits.Frame {
		return nil, fmt.Errorf("sandbox %s: request of %d bytes is over the limit of %d", name, len(request), c.limits.Frame)
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("sandbox %s: %w", name, context.Cause(ctx))
	}
	if c.left <= 0 { // the budget ended with the last answer
		c.kill(ErrWall)
		<-c.done
		return nil, c.verdict()
	}
	// The handler is told to stop before the process is killed, so that it can
	// say where it was: a tenth before, and a second where there is time for it.
	grace := max(c.left/10, min(time.Second, c.left/2))
	head := call{name: name, budget: c.left - grace}.head()
	t, answer, err := c.exchange(ctx, frameCall, head, request)
	if err != nil {
		return nil, err
	}
	switch t {
	case frameAnswer:
		return answer, nil
	case frameFailed:
		return nil, &CallError{Handler: name, Text: string(answer)}
	case framePanicked:
		c.condemn(firstLine(string(answer)), string(answer))
	default:
		c.condemn(fmt.Sprintf("frame of type %d in answer to a call", t), "")
	}
	<-c.done
	return nil, c.verdict()
}

// exchange writes one frame and reads one, within the time that is left. When
// it returns an error the child is gone.
func (c *Child) exchange(ctx context.Context, t frameType, parts ...[]byte) (frameType, []byte, error) {
	began := time.Now()
	defer func() { c.left -= time.Since(began) }()
	timer := time.AfterFunc(c.left, func() { c.kill(ErrWall) })
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })
	defer stop()

	// A child that died makes the write fail; what it said before is still read.
	werr := writeFrame(c.requests, t, parts...)
	got, body, err := readFrame(c.responses, c.limits.Frame)
	if err == nil && werr == nil {
		return got, body, nil
	}
	if errors.Is(err, errFrame) {
		c.condemn(err.Error(), "")
	} else if err == nil {
		c.condemn("it answered before it was asked", "")
	}
	// The end of file 4 means that the child is ending, or has closed it, which
	// no handler of ours does: then the wall ends the wait.
	<-c.done
	return 0, nil, c.verdict()
}

// kill ends the child for the reason, if it has not ended yet.
func (c *Child) kill(reason error) {
	select {
	case <-c.done:
		return
	default:
	}
	c.mu.Lock()
	if c.reason == nil {
		c.reason = reason
	}
	c.mu.Unlock()
	c.cmd.Process.Kill() // an error means that it has ended
}

// condemn ends the child for what it said. That holds also where it has ended
// by itself meanwhile, as a child does that reports a panic.
func (c *Child) condemn(cause, printed string) {
	c.mu.Lock()
	if c.reason == nil {
		c.reason = &Failure{Kind: ErrCrashed, Text: "policy evaluation crashed: " + cause, Output: printed}
	}
	c.mu.Unlock()
	c.cmd.Process.Kill()
}

// errClosed is the reason of a child that was closed.
var errClosed = errors.New("sandbox: closed")

// Close kills the child and waits until it is gone. It may be called again.
func (c *Child) Close() error {
	c.release()
	c.kill(errClosed)
	<-c.done
	err := c.requests.Close()
	if err2 := c.responses.Close(); err == nil {
		err = err2
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// firstLine is the first line of s, cut where it gets long.
func firstLine(s string) string {
	line, _, _ := bytes.Cut([]byte(s), []byte("\n"))
	const most = 500
	if len(line) > most {
		line = append(line[:most:most], "…"...)
	}
	return string(bytes.ToValidUTF8(line, []byte("�")))
}
