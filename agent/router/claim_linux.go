package router

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// claimName is the alternative name of the interface of the agent that runs. The
// kernel lets one interface of a network namespace have a name, takes it away
// with the interface when the agent is killed, and lets nobody give it who may
// not change the network: a socket with a name of its own, or a file, any user
// could hold against every agent.
const claimName = "writ-agent-running"

// errClaimed is the refusal beside another agent.
func errClaimed(name string) error {
	return fmt.Errorf("interface %s: another agent runs in this network namespace", name)
}

// claim makes an interface the one of this network namespace. Kernels before 5.5
// have no alternative names; there, two agents notice each other by their routes.
func (k *kernel) claim(link netlink.Link) error {
	err := k.plain.LinkAddAltName(link, claimName)
	switch {
	case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return nil
	case !errors.Is(err, unix.EEXIST):
		return fmt.Errorf("claim the network namespace for interface %s: %w", link.Attrs().Name, err)
	}
	by, err := k.claimant()
	if err != nil {
		return err
	}
	if by != link.Attrs().Name && by != "" {
		return errClaimed(by)
	}
	return nil
}

// unclaim undoes claim.
func (k *kernel) unclaim(link netlink.Link) error {
	if by, err := k.claimant(); err != nil || by != link.Attrs().Name {
		return err
	}
	if err := k.plain.LinkDelAltName(link, claimName); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("give the network namespace free: %w", err)
	}
	return nil
}

// claimant is the interface of the agent that runs; empty if there is none.
func (k *kernel) claimant() (string, error) {
	link, err := k.plain.LinkByName(claimName)
	var none netlink.LinkNotFoundError
	switch {
	// A kernel without alternative names finds the name too long.
	case errors.As(err, &none), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look whether an agent runs: %w", err)
	}
	return link.Attrs().Name, nil
}
