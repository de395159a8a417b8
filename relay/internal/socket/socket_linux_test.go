package socket

import (
	"net"
	"syscall"
	"testing"
)

func TestTuneIsInForce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	Tune(c)
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat)
		if err != nil || got != unsentBytes {
			t.Errorf("got %d, %v; want %d", got, err, unsentBytes)
		}
	})
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	Tune(one) // not a TCP connection: nothing happens
}
