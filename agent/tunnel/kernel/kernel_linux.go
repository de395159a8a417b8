package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

const clonePath = "/dev/net/tun"

// A Device is a TUN device that exists as long as it is open.
type Device struct {
	// set at construction
	native tun.Device // writes, and owns the file
	file   *os.File
	raw    syscall.RawConn
	read   func(fd uintptr) bool // readQueue, made once
	name   string
	mtu    int

	closed  atomic.Bool
	invalid atomic.Uint64

	reading sync.Mutex // guards what follows
	rest    superpacket
	buffer  [headerLength + maxPacket]byte
	call    struct { // the Read that is under way
		bufs   [][]byte
		sizes  []int
		offset int
		n      int
		err    error
	}
}

var _ tun.Device = (*Device)(nil)

// New makes the device. It is down and has no address.
func New(cfg Config) (*Device, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("create device %q: %w", cfg.Name, err)
	}
	fd, err := create(cfg)
	if err != nil {
		return nil, fmt.Errorf("create device %q: %w", cfg.Name, err)
	}
	// Unmonitored: without wireguard-go's netlink socket, and without its probe
	// of the device every second.
	native, name, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create device %q: %w", cfg.Name, err)
	}
	d := &Device{native: native, file: native.File(), name: name, mtu: cfg.MTU}
	d.read = d.readQueue
	if d.raw, err = d.file.SyscallConn(); err != nil {
		native.Close()
		return nil, fmt.Errorf("create device %q: %w", cfg.Name, err)
	}
	return d, nil
}

func (cfg Config) check() error {
	switch {
	case cfg.Name == "" || len(cfg.Name) >= unix.IFNAMSIZ:
		return fmt.Errorf("a name has 1 to %d bytes", unix.IFNAMSIZ-1)
	case cfg.Name == "." || cfg.Name == ".." || strings.ContainsFunc(cfg.Name, notInName):
		return errors.New("a name has no space, no slash, no colon and no percent sign")
	case cfg.MTU < MinMTU || cfg.MTU > MaxMTU:
		return fmt.Errorf("mtu %d, want %d to %d", cfg.MTU, MinMTU, MaxMTU)
	}
	return nil
}

// notInName is true for what the kernel refuses in a name, and for the percent
// sign, by which it would choose a name of its own.
func notInName(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }

// create opens the device and sets its MTU.
func create(cfg Config) (fd int, err error) {
	fd, err = unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return 0, fmt.Errorf("open %s: this system has no TUN (is the kernel module tun loaded?): %w", clonePath, err)
	case err != nil:
		return 0, fmt.Errorf("open %s: %w", clonePath, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	req, err := unix.NewIfreq(cfg.Name)
	if err != nil {
		return 0, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EINVAL):
		// EINVAL: the name is another kind of device's.
		return 0, fmt.Errorf("the name is in use: %w", err)
	case errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("needs the capability CAP_NET_ADMIN: %w", err)
	case err != nil:
		return 0, err
	}
	// Any socket does; it must be of the namespace the device is in.
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("set mtu: %w", err)
	}
	defer unix.Close(sock)
	if req, err = unix.NewIfreq(cfg.Name); err != nil {
		return 0, err
	}
	req.SetUint32(uint32(cfg.MTU))
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFMTU, req); err != nil {
		return 0, fmt.Errorf("set mtu: %w", err)
	}
	return fd, nil
}

// Name is the configured one.
func (d *Device) Name() (string, error) { return d.name, nil }

// MTU is the configured one.
func (d *Device) MTU() (int, error) { return d.mtu, nil }

// File is the open device.
func (d *Device) File() *os.File { return d.file }

// Events is a channel that says nothing, and is closed by Close.
func (d *Device) Events() <-chan tun.Event { return d.native.Events() }

// BatchSize is what wireguard-go's queues are made for.
func (d *Device) BatchSize() int { return conn.IdealBatchSize }

// Invalid counts the packets that Read dropped.
func (d *Device) Invalid() uint64 { return d.invalid.Load() }

// Close ends Read and removes the device.
func (d *Device) Close() error {
	d.closed.Store(true)
	return d.native.Close()
}

// Interrupt makes the Read that waits, or else the next one, return without a
// packet.
func (d *Device) Interrupt() {
	// A deadline in the past ends every wait until Read takes it back. It only
	// fails on a closed file, whose Read returns anyway.
	_ = d.file.SetReadDeadline(time.Unix(1, 0))
}

// Read waits for a packet and returns all that are there, as many as fit. After
// an Interrupt it may return none.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	c := &d.call
	c.bufs, c.sizes, c.offset, c.n, c.err = bufs, sizes, offset, 0, nil
	defer func() { c.bufs, c.sizes = nil, nil }()
	if d.handOut(); c.n > 0 {
		return c.n, nil
	}
	err := d.raw.Read(d.read)
	switch {
	case d.closed.Load():
		return 0, os.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Whoever interrupts between here and the end of this Read is answered by
		// its return.
		if err := d.file.SetReadDeadline(time.Time{}); err != nil {
			return 0, os.ErrClosed
		}
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read device %s: %w", d.name, err)
	case errors.Is(c.err, unix.EBADFD): // somebody removed it
		return 0, os.ErrClosed
	case c.err != nil:
		return 0, fmt.Errorf("read device %s: %w", d.name, c.err)
	}
	return c.n, nil
}

// readQueue reads until the batch is full or the queue is empty; false: wait.
func (d *Device) readQueue(fd uintptr) bool {
	c := &d.call
	for c.n < len(c.bufs) {
		n, err := unix.Read(int(fd), d.buffer[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return c.n > 0
		case err != nil:
			if c.n == 0 { // else the next Read meets it again
				c.err = err
			}
			return true
		case !d.rest.parse(d.buffer[:n]):
			d.invalid.Add(1)
			continue
		}
		d.handOut()
	}
	return true
}

// handOut moves what is left of the superpacket into the batch.
func (d *Device) handOut() {
	c := &d.call
	for c.n < len(c.bufs) {
		size, ok := d.rest.take(c.bufs[c.n][c.offset:])
		if !ok {
			return
		}
		if size == 0 {
			d.invalid.Add(1)
			continue
		}
		c.sizes[c.n] = size
		c.n++
	}
}

// Write gives packets to the kernel. Those of one flow arrive in their order.
// Each needs offset bytes before it, ten or more, which are overwritten.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	if err := trains(bufs, offset, func(bufs [][]byte) error {
		_, err := d.native.Write(bufs, offset)
		return err
	}); err != nil {
		return 0, err
	}
	return len(bufs), nil
}
