package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/writmesh/writ/agent/tunnel/kernel"
)

// preflight tries what the node will need of this machine, before anybody is told
// of it: a node that is admitted has used up a name and an address.
func preflight(cfg Config) error {
	if cfg.Interface != "" {
		device, err := kernel.New(kernel.Config{Name: cfg.Interface, MTU: mtu})
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%w (a network interface takes root or CAP_NET_ADMIN; --userspace does without)", err)
		}
		if err == nil {
			err = device.Close()
		}
		if err != nil {
			return err
		}
	}
	if cfg.Port != 0 {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(cfg.Port)})
		if err != nil {
			return fmt.Errorf("UDP port: %w", err)
		}
		return c.Close()
	}
	return nil
}
