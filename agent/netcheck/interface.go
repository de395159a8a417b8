package netcheck

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// An Interface is what matters here of a network interface.
type Interface struct {
	Name  string
	Up    bool
	Addrs []netip.Addr
}

// Interfaces are this machine's, in the order the system has them. An interface
// that disappears while it is asked for has no addresses.
func Interfaces() ([]Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Interface
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			addrs = nil
		}
		out = append(out, interfaceOf(i.Name, i.Flags, addrs))
	}
	return out, nil
}

func interfaceOf(name string, flags net.Flags, addrs []net.Addr) Interface {
	i := Interface{Name: name, Up: flags&net.FlagUp != 0}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				i.Addrs = append(i.Addrs, ip.Unmap())
			}
		}
	}
	return i
}

// virtual are the beginnings of names that programs give to networks inside the
// machine: of containers and virtual machines. Elsewhere their addresses are
// rarely found, and mean another machine; so they are the last to be told.
var virtual = []string{"docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "podman", "cni", "flannel", "cali", "lxc", "lxd", "kube", "cilium", "vEthernet"}

// Virtual reports whether the interface is of a network inside the machine.
func (i Interface) Virtual() bool { return isVirtual(i.Name) }

func isVirtual(name string) bool {
	return slices.ContainsFunc(virtual, func(p string) bool { return strings.HasPrefix(name, p) })
}
