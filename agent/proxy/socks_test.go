package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
)

func TestSocksGreeting(t *testing.T) {
	l := newLab(t, nil)
	for _, c := range []struct{ name, in, want string }{
		{"no authentication", "05 01 00", "05 00"},
		{"among others", "05 03 02 01 00", "05 00"},
		{"password only", "05 01 02", "05 ff"},
		{"no method", "05 00", "05 ff"},
	} {
		conn := dial(t, l.addr)
		exchange(t, conn, unhex(t, c.in), unhex(t, c.want))
	}
	for _, in := range []string{"04 01 00 50 7f 00 00 01 00", "00", "16 03 01"} {
		conn := dial(t, l.addr)
		conn.Write(unhex(t, in))
		expectEnd(t, conn)
	}
}

func TestSocksReplies(t *testing.T) {
	refuse := map[string]error{
		"203.0.113.1:80":   syscall.ENETUNREACH,
		"203.0.113.2:80":   syscall.EHOSTUNREACH,
		"203.0.113.3:80":   context.DeadlineExceeded,
		"203.0.113.4:80":   syscall.ECONNREFUSED,
		"203.0.113.5:80":   ErrDenied,
		"203.0.113.6:80":   errors.New("something else"),
		"203.0.113.7:80":   syscall.ECONNRESET,
		"203.0.113.8:80":   &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT},
		"[2001:db8::1]:80": syscall.EHOSTUNREACH,
	}
	l := newLab(t, func(_ context.Context, network, addr string) (net.Conn, error) {
		err := refuse[addr]
		if network != "tcp" || err == nil {
			t.Errorf("dialled %s %s", network, addr)
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	})
	name := func(s string) string { return fmt.Sprintf("03 %02x %x", len(s), s) }
	for _, c := range []struct {
		name, request string
		code          byte
	}{
		{"network unreachable", "05 01 00 01 cb 00 71 01 00 50", 3},
		{"host unreachable", "05 01 00 01 cb 00 71 02 00 50", 4},
		{"timeout", "05 01 00 01 cb 00 71 03 00 50", 4},
		{"refused", "05 01 00 01 cb 00 71 04 00 50", 5},
		{"denied by dialer", "05 01 00 01 cb 00 71 05 00 50", 2},
		{"anything else", "05 01 00 01 cb 00 71 06 00 50", 1},
		{"reset", "05 01 00 01 cb 00 71 07 00 50", 5},
		{"kernel timeout", "05 01 00 01 cb 00 71 08 00 50", 4},
		{"IPv6", "05 01 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 00 50", 4},
		{"denied by resolver", "05 01 00" + name("Secret.ACME.mesh.") + "00 50", 2},
		{"no such name", "05 01 00" + name("nobody.acme.mesh") + "00 50", 4},
		{"address in a name", "05 01 00" + name("203.0.113.4") + "00 50", 5},
		{"mapped address", "05 01 00 04 00000000 00000000 0000ffff cb007104 00 50", 5},
		{"bind", "05 02 00 01 cb 00 71 04 00 50", 7},
		{"udp associate", "05 03 00 01 00 00 00 00 00 00", 7},
		{"unknown command", "05 09 00" + name("x") + "00 50", 7},
		{"unknown address type", "05 01 00 02", 8},
		{"empty name", "05 01 00 03 00 00 50", 1},
		{"bad name", "05 01 00" + name("a b") + "00 50", 1},
		{"port 0", "05 01 00 01 cb 00 71 04 00 00", 1},
	} {
		conn := dial(t, l.addr)
		exchange(t, conn, []byte{5, 1, 0}, []byte{5, 0})
		if _, err := conn.Write(unhex(t, c.request)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		want := append([]byte{5, c.code, 0, 1}, make([]byte, 6)...)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v; want %x", c.name, got, err, want)
		}
	}
	for _, in := range []string{"04 01 00 01 cb 00 71 04 00 50", "05 01 01 01 cb 00 71 04 00 50"} {
		conn := dial(t, l.addr)
		exchange(t, conn, []byte{5, 1, 0}, []byte{5, 0})
		conn.Write(unhex(t, in))
		if got, _ := io.ReadAll(conn); len(got) != 10 || got[1] != 1 {
			t.Errorf("%s: got %x, want a general failure", in, got)
		}
	}
}

// What a client sends right behind its request belongs to the connection.
func TestSocksEarlyData(t *testing.T) {
	l := newLab(t, nil)
	ln := listen(t)
	c := dial(t, l.addr)
	p := port(ln.Addr())
	req := append([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, byte(p >> 8), byte(p)}, "early"...)
	c.Write(req)
	server := acceptOne(t, ln)
	got := make([]byte, 5)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "early" {
		t.Fatalf("got %q, %v; want %q", got, err, "early")
	}
	local := server.RemoteAddr().(*net.TCPAddr).AddrPort()
	want := append([]byte{5, 0, 5, 0, 0, 1, 127, 0, 0, 1}, byte(local.Port()>>8), byte(local.Port()))
	reply := make([]byte, len(want))
	if _, err := io.ReadFull(c, reply); err != nil || !bytes.Equal(reply, want) {
		t.Errorf("got %x, %v; want %x", reply, err, want)
	}
}

// FuzzSocks: whatever is read as a request is one whose canonical form reads the
// same, and nothing beyond it is read.
func FuzzSocks(f *testing.F) {
	for _, s := range []string{
		"050100", "05ff00", "0500", "05010001cb00710400ff", "0501000309ledger", "05030001000000000000",
		"0501000420010db8000000000000000000000001" + "0050", "05010003076c656467657221" + "0050", "0501000306" + "6c6564676572" + "0050",
	} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		if ok, err := readGreeting(r); err != nil && ok {
			t.Error("a greeting that is wrong and right")
		}
		r.Reset(in)
		host, port, err := readRequest(r)
		if err != nil {
			return
		}
		if port == 0 {
			t.Error("port 0")
		}
		if again, err := checkHost(host); err != nil || again != host {
			t.Errorf("host %q is not in its simplest form: %q, %v", host, again, err)
		}
		used := len(in) - r.Len()
		want := 4 + 4 + 2
		switch in[3] {
		case addressIPv6:
			want = 4 + 16 + 2
		case addressName:
			want = 4 + 1 + int(in[4]) + 2
		}
		if used != want {
			t.Errorf("read %d bytes, want %d", used, want)
		}
	})
}
