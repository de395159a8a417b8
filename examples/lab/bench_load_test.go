//go:build lab && bench

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Loads for a path between two hosts, and what daemons spend on them.

const (
	loadPort = 5001 // of TCP and UDP

	// warmUp is how long a stream runs before it is measured: TCP opens its window
	// in it.
	warmUp = 500 * time.Millisecond
)

// spent is the processor time of programs so far, and the memory that they hold,
// in MB. The kernel counts their time in hundredths of a second.
func (l *Lab) spent(programs ...*Program) (cpu time.Duration, rss []float64) {
	l.t.Helper()
	for _, p := range programs {
		pid := p.cmd.Process.Pid
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		l.must(err)
		// After the name, which is in parentheses, utime and stime are 12th and 13th.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, s := range f[11:13] {
			ticks, err := strconv.ParseInt(s, 10, 64)
			l.must(err)
			cpu += time.Duration(ticks) * 10 * time.Millisecond
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		l.must(err)
		_, after, _ := strings.Cut(string(status), "VmRSS:")
		kb, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
		l.must(err)
		rss = append(rss, kb*1024/1e6)
	}
	return cpu, rss
}

// A streamed is what one TCP stream came to.
type streamed struct {
	gbit  float64 // a second, of payload
	perGB float64 // seconds of processor time of both daemons
}

// stream sends over one TCP connection for a time. While it is measured, during
// is run, if it is given.
func (l *Lab) stream(from, to *Host, at netip.Addr, d time.Duration, during func(), daemons ...*Program) streamed {
	l.t.Helper()
	ln, err := to.ListenTCP(netip.AddrPortFrom(at, loadPort))
	l.must(err)
	defer ln.Close()
	c, err := from.Dial(l.t.Context(), "tcp", netip.AddrPortFrom(at, loadPort).String())
	l.must(err)
	r, err := ln.Accept()
	l.must(err)
	var got atomic.Int64
	received, sent := make(chan error, 1), make(chan error, 1)
	go func() {
		buf := make([]byte, 256<<10)
		for {
			n, err := r.Read(buf)
			got.Add(int64(n))
			if err != nil {
				received <- err
				return
			}
		}
	}()
	go func() {
		buf := make([]byte, 128<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				sent <- err
				return
			}
		}
	}()
	<-time.After(warmUp)
	bytes, began := got.Load(), time.Now()
	cpu, _ := l.spent(daemons...)
	if during != nil {
		during()
	}
	<-time.After(time.Until(began.Add(d)))
	took := time.Since(began).Seconds()
	bytes = got.Load() - bytes
	after, _ := l.spent(daemons...)
	// Aborted: what is still under way is nobody's.
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	r.Close()
	<-sent
	if err := <-received; err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
		l.t.Fatal(err)
	}
	return streamed{float64(bytes) * 8 / 1e9 / took, (after - cpu).Seconds() / (float64(bytes) / 1e9)}
}

// socket makes a UDP socket in the namespace that blocks the thread: at a hundred
// thousand packets a second the runtime's poller would be part of what is
// measured.
func (h *Host) socket(at netip.AddrPort, buffer int) int {
	h.l.t.Helper()
	var fd int
	h.l.must(h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}),
			unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	}))
	return fd
}

// A flood is what a paced flow of small datagrams came to.
type flood struct {
	offered, received float64 // packets a second
	perPacket         float64 // microseconds of processor time of both daemons, by packet received
}

// flood sends datagrams of 64 bytes at a rate, a millisecond's at a time, and
// counts what the receiving program reads. It answers ten times a second, as
// programs do that send so many: of a stream that nothing answers an agent cannot
// know whether it arrives, and sends it by relay as well after three seconds.
func (l *Lab) flood(from, to *Host, source, at netip.Addr, rate int, d time.Duration, daemons ...*Program) flood {
	l.t.Helper()
	const buffer = 4 << 20
	in := to.socket(netip.AddrPortFrom(at, loadPort), buffer)
	out := from.socket(netip.AddrPortFrom(source, 0), buffer)
	defer unix.Close(out)
	l.must(unix.Connect(out, &unix.SockaddrInet4{Port: loadPort, Addr: at.As4()}))
	var got, sent atomic.Int64
	var stop atomic.Bool
	ended := make(chan struct{}, 2)
	go func() {
		defer func() { unix.Close(in); ended <- struct{}{} }()
		buf := make([]byte, 2048)
		for {
			var peer unix.Sockaddr
			var err error
			if answer := got.Load()%int64(rate/10) == 0; answer {
				_, peer, err = unix.Recvfrom(in, buf, 0)
			} else {
				_, err = unix.Read(in, buf)
			}
			switch {
			case err == nil:
				got.Add(1)
				if peer != nil {
					_ = unix.Sendto(in, buf[:64], 0, peer) // one that is lost is lost
				}
			case err == unix.EAGAIN && stop.Load():
				return
			}
		}
	}()
	go func() {
		runtime.LockOSThread()
		defer func() { runtime.UnlockOSThread(); ended <- struct{}{} }()
		msg := make([]byte, 64)
		began := time.Now()
		for n := int64(0); !stop.Load(); {
			due := int64(time.Since(began).Seconds() * float64(rate))
			for ; n < due; n++ {
				binary.BigEndian.PutUint64(msg, uint64(n))
				if _, err := unix.Write(out, msg); err == nil {
					sent.Add(1)
				}
			}
			ts := unix.NsecToTimespec(int64(time.Millisecond))
			_ = unix.Nanosleep(&ts, nil) // cut short, it looks again
		}
	}()
	<-time.After(warmUp)
	s, g, began := sent.Load(), got.Load(), time.Now()
	cpu, _ := l.spent(daemons...)
	<-time.After(d)
	s, g = sent.Load()-s, got.Load()-g
	took := time.Since(began).Seconds()
	after, _ := l.spent(daemons...)
	stop.Store(true)
	<-ended
	<-ended
	return flood{float64(s) / took, float64(g) / took, float64((after - cpu).Microseconds()) / float64(g)}
}

// ping sends echo requests, one every ten milliseconds, which the other side's
// kernel answers, and returns the round trips in milliseconds.
func (l *Lab) ping(from *Host, at netip.Addr, n int) series {
	l.t.Helper()
	var c *net.IPConn
	l.must(from.Do(func() (err error) {
		c, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: at.AsSlice()})
		return err
	}))
	defer c.Close()
	const echo, reply, id = 8, 0, 0x6c62
	sent := make([]time.Time, n)
	var mu sync.Mutex
	got, ended := series{}, make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			size, _, err := c.ReadFromIP(buf) // without the IP header, which Read leaves
			if err != nil {
				return
			}
			at := time.Now()
			if size < 8 || buf[0] != reply || binary.BigEndian.Uint16(buf[4:]) != id {
				continue
			}
			mu.Lock()
			if i := int(binary.BigEndian.Uint16(buf[6:])); i < n && !sent[i].IsZero() {
				got = append(got, at.Sub(sent[i]).Seconds()*1e3)
			}
			mu.Unlock()
		}
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	msg := make([]byte, 64)
	for i := range n {
		msg[0], msg[2], msg[3] = echo, 0, 0
		binary.BigEndian.PutUint16(msg[4:], id)
		binary.BigEndian.PutUint16(msg[6:], uint16(i))
		sum := uint32(0)
		for j := 0; j < len(msg); j += 2 {
			sum += uint32(binary.BigEndian.Uint16(msg[j:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(msg[2:], ^uint16(sum>>16+sum))
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		_, err := c.Write(msg)
		l.must(err)
		<-tick.C
	}
	l.must(c.SetReadDeadline(time.Now().Add(time.Second)))
	<-ended
	return got
}
