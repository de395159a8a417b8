//go:build lab

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace. It lives until close, or until the
// process ends: no file refers to it.
type Namespace struct {
	Name string

	handle *os.File    // the namespace, as a file that others can be told
	work   chan func() // run by a thread that is in the namespace
	ended  chan struct{}
}

// newNamespace makes an empty namespace with its loopback up.
func newNamespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name, work: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(n.ended)
		// Never unlocked: the thread ends with this goroutine. It also starts the
		// programs, which die with it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.handle, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	if err := n.IP("link set lo up"); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *Namespace) close() {
	close(n.work)
	<-n.ended
	n.handle.Close()
}

// path names the namespace to the ip program.
func (n *Namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.handle.Fd()) }

// Do runs f on a thread that is in the namespace; one f at a time. Sockets,
// programs and TAP devices made by f stay in the namespace.
func (n *Namespace) Do(f func() error) error {
	var err error
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// apart runs f on a thread of its own that is in the namespace, for what may
// take a while.
func (n *Namespace) apart(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, as above
		if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", n.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// run runs a program in the namespace to its end.
func (n *Namespace) run(stdin string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %s: %w", n.Name, name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %s %s: %w: %s%s", n.Name, name, strings.Join(args, " "), err, out.String(), stdin)
	}
	return out.String(), nil
}

// IP runs commands of ip(8), one a line, each without the word ip.
func (n *Namespace) IP(lines ...string) error {
	_, err := n.run(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// NFT applies a ruleset of nft(8), as one transaction.
func (n *Namespace) NFT(rules string) error {
	_, err := n.run(rules, "nft", "-f", "-")
	return err
}

// Sysctl sets kernel parameters of the namespace: "net.ipv4.ip_forward=1".
func (n *Namespace) Sysctl(settings ...string) error {
	return n.Do(func() error {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
			if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
		}
		return nil
	})
}

// ListenTCP listens in the namespace.
func (n *Namespace) ListenTCP(at netip.AddrPort) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	return l, err
}

// ListenUDP makes a UDP socket in the namespace.
func (n *Namespace) ListenUDP(at netip.AddrPort) (c *net.UDPConn, err error) {
	err = n.Do(func() error {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return c, err
}

// Dial connects from the namespace. The address is numeric: a name would be
// looked up from another thread, outside.
func (n *Namespace) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("%s: dial: %w", n.Name, err)
	}
	err = n.apart(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// TAP makes a TAP device in the namespace; each Read of it yields a frame that
// the namespace sends, each Write is a frame that it receives. The device goes
// with the file.
func (n *Namespace) TAP(name string) (io.ReadWriteCloser, error) {
	var tap *os.File
	err := n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make TAP device %s: %w", name, err), unix.Close(fd))
		}
		tap = os.NewFile(uintptr(fd), name)
		return nil
	})
	return tap, err
}

// text reads a file of /proc/net as the namespace sees it.
func (n *Namespace) text(name string) string {
	var b []byte
	err := n.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/" + name)
		return err
	})
	if err != nil {
		return err.Error() + "\n"
	}
	return string(b)
}
