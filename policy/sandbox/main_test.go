//go:build linux && (amd64 || arm64)

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// handlers are what the children of these tests can do. Each tries one thing
// that a language engine in an attacker's hands might.
var handlers = map[string]Handler{
	"echo": func(_ context.Context, request []byte) ([]byte, error) { return request, nil },
	"fail": func(_ context.Context, request []byte) ([]byte, error) { return nil, errors.New(string(request)) },
	"environment": func(context.Context, []byte) ([]byte, error) {
		dir, err := os.Getwd()
		return fmt.Appendf(nil, "%q %q %v %q", os.Environ(), os.Args, dir == "", err), nil
	},
	"zone": func(context.Context, []byte) ([]byte, error) {
		return []byte(time.Unix(0, 0).Local().Format("MST")), nil
	},
	"panic": func(context.Context, []byte) ([]byte, error) { panic("boom") },
	"panic elsewhere": func(ctx context.Context, _ []byte) ([]byte, error) {
		go func() { panic("far away") }()
		select {}
	},
	"exit": func(context.Context, []byte) ([]byte, error) { os.Exit(0); return nil, nil },
	"memory": func(context.Context, []byte) ([]byte, error) {
		var hold [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hold = append(hold, b)
			if len(hold) > 1<<20 {
				return nil, errors.New("a terabyte was to be had")
			}
		}
	},
	"stack": func(context.Context, []byte) ([]byte, error) { return []byte{byte(descend(0))}, nil },
	"spin": func(context.Context, []byte) ([]byte, error) {
		for n := uint64(1); ; n++ {
			if n == 0 { // in five centuries
				return nil, nil
			}
		}
	},
	"block": func(ctx context.Context, _ []byte) ([]byte, error) { select {} },
	"wait": func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	},
	"spam": func(context.Context, []byte) ([]byte, error) {
		line := strings.Repeat("x", 1023) + "\n"
		for range 8 << 10 {
			os.Stdout.WriteString(line)
			os.Stderr.WriteString(line)
		}
		return []byte("spoken"), nil
	},
	"huge":    func(context.Context, []byte) ([]byte, error) { return make([]byte, 2<<20), nil },
	"verbose": func(context.Context, []byte) ([]byte, error) { return nil, errors.New(strings.Repeat("e", 2<<20)) },
	"lie": func(context.Context, []byte) ([]byte, error) {
		os.NewFile(4, "responses").Write([]byte{0xff, 0xff, 0xff, 0xff, byte(frameAnswer)})
		select {}
	},
	"chatter": func(context.Context, []byte) ([]byte, error) {
		writeFrame(os.NewFile(4, "responses"), 99)
		select {}
	},

	"tcp":    attempt(func() error { _, err := net.Dial("tcp", "127.0.0.1:1"); return err }),
	"udp":    attempt(func() error { _, err := net.Dial("udp", "127.0.0.1:1"); return err }),
	"listen": attempt(func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }),
	"unix":   attempt(func() error { _, err := net.Dial("unix", "/run/nobody"); return err }),
	"pair": attempt(func() error {
		_, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		return err
	}),
	"exec":   attempt(func() error { return exec.Command("/bin/true").Run() }),
	"become": attempt(func() error { return syscall.Exec("/proc/self/exe", []string{"x"}, nil) }),
	"fork": attempt(func() error {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		return errno
	}),
	"read":   attempt(func() error { _, err := os.ReadFile("/etc/hostname"); return err }),
	"write":  attempt(func() error { return os.WriteFile("/tmp/writ-sandbox-test", []byte("x"), 0o600) }),
	"remove": attempt(func() error { return os.Remove("/tmp/writ-sandbox-test") }),
	"list":   attempt(func() error { _, err := os.ReadDir("/"); return err }),
	"signal": attempt(func() error { return syscall.Kill(1, 0) }),
	"setuid": attempt(func() error { return setuidOneThread() }),
	"unlimit": attempt(func() error {
		return syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: 1 << 40, Max: 1 << 40})
	}),
	"ptrace":   attempt(func() error { return syscall.PtraceAttach(1) }),
	"code":     attempt(func() error { return mapCode() }),
	"start":    attempt(func() error { _, err := Start(context.Background(), Limits{}); return err }),
	"truncate": attempt(func() error { return os.Truncate("/tmp/writ-sandbox-test", 0) }),
}

func mapCode() error {
	_, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	return err
}

func setuidOneThread() error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETUID, 0, 0, 0)
	if errno == 0 {
		return nil
	}
	return errno
}

//go:noinline
func descend(n int) int {
	var page [4096]byte
	page[n%len(page)] = byte(n)
	if n < 0 { // never
		return n
	}
	return descend(n+1) + int(page[(n+1)%len(page)])
}

// attempt answers "done" if the attempt succeeds, and its error otherwise.
func attempt(try func() error) Handler {
	return func(context.Context, []byte) ([]byte, error) {
		if err := try(); err != nil {
			return nil, err
		}
		return []byte("done"), nil
	}
}

func TestMain(m *testing.M) {
	Main(handlers)
	os.Exit(m.Run())
}
