//go:build linux

package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests that change a network do it in one that is thrown away. A test runs
// itself again in a process of its own that was born in a new network namespace;
// everything in that process, whatever its thread, is in there, and the machine's
// own network is out of its reach. The namespace has no name and ends with the
// process.

const (
	envInside = "WRIT_ROUTER_TEST_INSIDE" // the test that this process runs
	envChild  = "WRIT_ROUTER_TEST_CHILD"  // what else this process is
)

// inNamespace reports whether this is the process inside; otherwise it has run
// the test there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envInside) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("bring lo up: %v", err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TRIED: needs root, for a network namespace")
	}
	t.Parallel() // each has its own network
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.timeout=60s", "-test.count=1"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envInside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in its network namespace: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("in its network namespace:\n%s", out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip("NOT TRIED, see above")
	}
	return false
}

func TestMain(m *testing.M) {
	switch kind := os.Getenv(envChild); kind {
	case "":
		os.Exit(m.Run())
	case "stay":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "agent":
		if err := childAgent(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "%s=%s is not known\n", envChild, kind)
		os.Exit(2)
	}
}

// childAgent is as much of an agent as this package sees: an interface (its own,
// unless there is one), a Router, Set, and Watch. It says "ready" when Set is done,
// "repaired" for each loss, and stays until its standard input ends.
func childAgent() error {
	var s State
	if err := json.Unmarshal([]byte(os.Getenv("WRIT_ROUTER_TEST_STATE")), &s); err != nil {
		return err
	}
	if _, err := netlink.LinkByName("writ0"); err != nil {
		tun, err := openTUN("writ0")
		if err != nil {
			return err
		}
		defer tun.Close()
	}
	r, err := New(Config{Interface: "writ0"})
	if err != nil {
		return err
	}
	if err := r.Set(context.Background(), s); err != nil {
		return errors.Join(err, r.Close())
	}
	fmt.Println("ready")
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Watch(ctx, func(e Event) {
			if e.Ours {
				fmt.Println("repaired", r.Set(ctx, s))
			}
		})
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	stop()
	if werr := <-ended; !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	return errors.Join(err, r.Close())
}

// child is a process that runs in this test's namespace, or in one of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

func startChild(t *testing.T, kind string, attr *syscall.SysProcAttr, env ...string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), envChild+"="+kind), env...)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start child %s: %v", kind, err)
	}
	c := &child{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
	t.Cleanup(c.kill)
	return c
}

// kill is kill -9. The process and its interfaces are gone when it returns.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// startAgent starts a childAgent and waits until it is ready.
func startAgent(t *testing.T, s State, attr *syscall.SysProcAttr) *child {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "agent", attr, "WRIT_ROUTER_TEST_STATE="+string(text))
	if !c.lines.Scan() || c.lines.Text() != "ready" {
		t.Fatalf("child agent says %q, want ready", c.lines.Text())
	}
	return c
}

// openTUN makes an interface that lives as long as the file.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

func tunFor(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := openTUN(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func routerFor(t *testing.T, cfg Config) *Router {
	t.Helper()
	if cfg.Interface == "" {
		cfg.Interface = "writ0"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// neighbour is another machine on the node's local network:
//
//	this namespace                              the neighbour's
//	  lan0 192.0.2.1/24, 2001:db8:1::1/64 ───── lan1 192.0.2.2/24, 2001:db8:1::2/64
//	  default routes ────────────────────────►
type neighbour struct {
	t  *testing.T
	ns int // file descriptor of its namespace
}

var (
	lanHere4, lanThere4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	lanHere6, lanThere6 = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::2")
)

func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	c := startChild(t, "stay", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	pid := c.cmd.Process.Pid
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1", PeerNamespace: netlink.NsFd(ns)}
	must(t, netlink.LinkAdd(veth))
	n := &neighbour{t: t, ns: ns}
	addLAN(t, "lan0", lanHere4, lanHere6)
	n.do(func() { addLAN(t, "lan1", lanThere4, lanThere6); awaitCarrier(t, "lan1") })
	awaitCarrier(t, "lan0")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: lanThere4.AsSlice()}))
	must(t, netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("::/0")), Gw: lanThere6.AsSlice()}))
	return n
}

func addLAN(t *testing.T, name string, a4, a6 netip.Addr) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	must(t, netlink.LinkSetIP6AddrGenMode(link, nl6AddrGenNone)) // what comes later by itself is no part of the test
	must(t, netlink.LinkSetUp(link))
	assign(t, link, netip.PrefixFrom(a4, 24))
	assign(t, link, netip.PrefixFrom(a6, 64))
}

// awaitCarrier waits until an interface passes packets, which is some time after
// it is up.
func awaitCarrier(t *testing.T, name string) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	must(t, netlink.LinkSubscribe(updates, done))
	defer func() {
		close(done)
		for range updates {
		}
	}()
	deadline := time.After(10 * time.Second)
	for {
		link, err := netlink.LinkByName(name)
		must(t, err)
		if link.Attrs().OperState == netlink.OperUp {
			return
		}
		select {
		case <-updates:
		case <-deadline:
			t.Fatalf("interface %s is %s, want up", name, link.Attrs().OperState)
		}
	}
}

// assign gives an interface an address and waits until packets to it are taken,
// which for IPv6 is some time after it is there.
func assign(t *testing.T, link netlink.Link, p netip.Prefix) {
	t.Helper()
	updates, done := make(chan netlink.RouteUpdate), make(chan struct{})
	must(t, netlink.RouteSubscribe(updates, done))
	defer func() {
		close(done)
		for range updates {
		}
	}()
	must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(p), Flags: unix.IFA_F_NODAD}))
	deadline := time.After(10 * time.Second)
	for {
		if found, err := netlink.RouteGet(p.Addr().AsSlice()); err == nil && len(found) > 0 && found[0].Type == unix.RTN_LOCAL {
			return
		}
		select {
		case <-updates:
		case <-deadline:
			t.Fatalf("address %s is not taken", p)
		}
	}
}

// do runs f in the neighbour's namespace, on a thread that ends with it.
func (n *neighbour) do(f func()) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		var err error
		defer func() { done <- err }() // also when f ends this goroutine
		if err = unix.Setns(n.ns, unix.CLONE_NEWNET); err == nil {
			f()
		}
	}()
	must(n.t, <-done)
	if n.t.Failed() {
		n.t.FailNow()
	}
}

// socket opens a UDP socket at the neighbour. It stays there wherever it is used.
func (n *neighbour) socket(at netip.Addr, port uint16) (c *net.UDPConn) {
	n.t.Helper()
	n.do(func() { c = listen(n.t, at, port) })
	return c
}

// listen opens a UDP socket; an address of no interface is allowed.
func listen(t *testing.T, at netip.Addr, port uint16) *net.UDPConn {
	t.Helper()
	network := "udp6"
	if at.Is4() {
		network = "udp4"
	}
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
	if err != nil {
		t.Fatalf("listen at %s: %v", at, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// receiveAll returns what a socket gets up to and with the marker.
func receiveAll(t *testing.T, c *net.UDPConn, marker string) (got []string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("received %q and then %v, want the marker %q at the end", got, err, marker)
		}
		got = append(got, string(buf[:n]))
		if string(buf[:n]) == marker {
			return got
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// output runs a program of the machine and returns what it prints; the empty
// string where it is not installed.
func output(t *testing.T, name string, args ...string) (string, bool) {
	t.Helper()
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not in every PATH
			if _, err := os.Stat(dir + name); err == nil {
				path = dir + name
			}
		}
	}
	if path == "" {
		t.Logf("%s is not installed: NOT COMPARED with what it says", name)
		return "", false
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if strings.Contains(string(out), "FIB table does not exist") {
		return "", true // ip's way to say that there are no routes
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), true
}

func linkIndex(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link.Attrs().Index
}
