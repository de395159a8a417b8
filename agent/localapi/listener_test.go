package localapi

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const nobody = 65534 // a user and a group that own nothing

// dialAs connects as another user, which needs root. Users of a thread are its
// own for the kernel, and the thread ends with the goroutine.
func dialAs(path string, uid, gid int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if e1 != 0 || e2 != 0 || e3 != 0 {
			done <- result{err: errors.Join(e1, e2, e3)}
			return
		}
		c, err := net.Dial("unix", path)
		done <- result{c, err}
	}()
	r := <-done
	return r.conn, r.err
}

// publicDir is a directory that every user may search.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localapi-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWhoMayCallWhat(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to call as other users")
	}
	s := serveAt(t, filepath.Join(publicDir(t), SocketName))
	gid := os.Getgid()
	verbs := []string{"GET /v1/status", "GET /v1/whois?addr=100.64.0.2", "POST /v1/ping?peer=db", "POST /v1/down"}
	for _, c := range []struct {
		name     string
		uid, gid int
		want     []int // per verb; nil: the socket does not open
	}{
		{"root, whom the agent runs as", 0, 0, []int{200, 200, 200, 200}},
		{"member of the socket's group", nobody, gid, []int{200, 200, 200, 403}},
		{"anybody else", nobody, nobody, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, verb := range verbs {
				conn, err := dialAs(s.path, c.uid, c.gid)
				if c.want == nil {
					if !errors.Is(err, unix.EACCES) {
						t.Errorf("got %v, want permission denied", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(within))
				method, target, _ := strings.Cut(verb, " ")
				if code, text := ask(t, conn, request(method, target, "Host: agent", "Content-Length: 0")); code != c.want[i] {
					t.Errorf("%s: got %d %s, want %d", verb, code, text, c.want[i])
				}
			}
		})
	}
	if n := len(s.agent.downs); n != 1 {
		t.Errorf("the agent was told to go down %d times, want once", n)
	}
}

func TestMayCall(t *testing.T) {
	self := uint32(os.Getuid())
	for _, c := range []struct {
		uid  uint32
		path string
		want bool
	}{
		{0, "/v1/down", true},
		{self, "/v1/down", true},
		{self + 1, "/v1/down", false},
		{self + 1, "/v1/status", true},
	} {
		if got := mayCall(caller{c.uid, true}, c.path); got != c.want {
			t.Errorf("user %d calls %s: got %v, want %v", c.uid, c.path, got, c.want)
		}
	}
}

// The socket must never have other permissions than its own, not even for a
// moment: it arrives at its place with them, by a rename.
func TestSocketModeAtEveryInstant(t *testing.T) {
	defer unix.Umask(unix.Umask(0)) // whatever is left to the umask would be open to all
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB); err != nil {
		t.Fatal(err)
	}
	s := serveAt(t, filepath.Join(dir, SocketName))
	info, err := os.Lstat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.ModeSocket|0o660; got != want {
		t.Errorf("mode: got %v, want %v", got, want)
	}
	var events []string
	buf := make([]byte, 4096)
	n, err := unix.Read(watch, buf)
	if err != nil {
		t.Fatal(err)
	}
	for b := buf[:n]; len(b) > 0; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:][:e.Len], "\x00"))
		b = b[unix.SizeofInotifyEvent+int(e.Len):]
		if name != SocketName {
			continue // the private directory
		}
		switch {
		case e.Mask&unix.IN_CREATE != 0:
			events = append(events, "created")
		case e.Mask&unix.IN_MOVED_TO != 0:
			events = append(events, "moved here")
		case e.Mask&unix.IN_ATTRIB != 0:
			events = append(events, "changed")
		}
	}
	if got, want := strings.Join(events, ", "), "moved here"; got != want {
		t.Errorf("the socket's events: got %q, want %q", got, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v in the directory, want the socket alone", entries, err)
	}
}

func TestListen(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	// dead leaves a socket as an agent does that is killed.
	dead := func(t *testing.T, path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	t.Run("dead socket is replaced", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), SocketName)
		dead(t, path)
		s := serveAt(t, path)
		if st, err := Dial(s.path).Status(t.Context(), -1); err != nil || st.Version != 7 {
			t.Errorf("got %+v, %v, want version 7", st, err)
		}
	})
	refused := func(name, want string, there func(t *testing.T, path string)) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), SocketName)
			there(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Listen(path, newFakeAgent(), log)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error with %q that names the path", err, want)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("got %v, %v, want what was there untouched", after, err)
			}
		})
	}
	refused("live socket", "another agent answers at", func(t *testing.T, path string) { serveAt(t, path) })
	refused("live socket whose agent is busy", "another agent", func(t *testing.T, path string) {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		// A full queue of connections makes connect fail without anybody being gone.
		raw, err := l.(*net.UnixListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
		if err != nil {
			t.Fatal(err)
		}
		for {
			c, err := net.Dial("unix", path)
			if errors.Is(err, unix.EAGAIN) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	})
	refused("file", "is there and is not a socket", func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	refused("directory", "is there and is not a socket", func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	})
	refused("link to a dead socket", "is there and is not a socket", func(t *testing.T, path string) {
		target := filepath.Join(filepath.Dir(path), "dead")
		dead(t, target)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("path too long", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := Listen(filepath.Join(dir, SocketName), newFakeAgent(), log)
		if want := "is too long for a socket by"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("got %v, %v left behind, want nothing", entries, err)
		}
	})
}

// An agent that ends late does not take the socket of the next one with it.
func TestEndLeavesAnothersSocket(t *testing.T) {
	old := serve(t)
	if err := os.Rename(old.path, old.path+".aside"); err != nil {
		t.Fatal(err)
	}
	serveAt(t, old.path)
	if err := old.stop(); err != nil {
		t.Error(err)
	}
	if st, err := Dial(old.path).Status(t.Context(), -1); err != nil || st.Version != 7 {
		t.Errorf("got %+v, %v from the next agent, want version 7", st, err)
	}
}
