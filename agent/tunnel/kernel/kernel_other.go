//go:build !linux

package kernel

import (
	"errors"
	"fmt"
	"runtime"

	"golang.zx2c4.com/wireguard/tun"
)

// A Device is a TUN device. There is none on this system.
type Device struct{ tun.Device }

// New refuses.
func New(cfg Config) (*Device, error) {
	return nil, fmt.Errorf("create device %q: kernel devices on %s: %w; run without one, in userspace", cfg.Name, runtime.GOOS, errors.ErrUnsupported)
}

// Interrupt does nothing: no Device exists.
func (d *Device) Interrupt() {}

// Invalid counts nothing: no Device exists.
func (d *Device) Invalid() uint64 { return 0 }
