//go:build !linux

package router

import (
	"context"
	"errors"
	"runtime"
)

// errNoLinux is why there is no Router here.
var errNoLinux = errors.New("a kernel interface is supported on Linux only, not on " + runtime.GOOS + "; run in userspace")

// Router is never made on this system.
type Router struct{}

// New refuses.
func New(Config) (*Router, error) { return nil, errNoLinux }

// Set refuses.
func (*Router) Set(context.Context, State) error { return errNoLinux }

// Watch refuses.
func (*Router) Watch(context.Context, func(Event)) error { return errNoLinux }

// Warnings is empty.
func (*Router) Warnings() []string { return nil }

// Drops refuses.
func (*Router) Drops() (Drops, error) { return Drops{}, errNoLinux }

// Close does nothing.
func (*Router) Close() error { return nil }

// Cleanup refuses.
func Cleanup(context.Context) error { return errNoLinux }
