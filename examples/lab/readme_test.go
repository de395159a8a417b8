//go:build lab

package lab

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/coordinator/deptest"
	"github.com/writmesh/writ/examples/document"
	"github.com/writmesh/writ/examples/lab/link"
)

// README.md, "Two machines", as it stands.
//
//	                         the Internet
//	        ┌─────────────────────┴────┬─────────────────┐
//	     control                    home-a            home-b
//	(policy repository, sync,          │                 │
//	 coordinator, relay, STUN)       laptop     ledger-1 (tcp/443 answers)

// setUp are the steps that the section takes from "Run it for real".
var setUp = regexp.MustCompile(`^[1-5]\. `)

func TestTwoMachines(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"bash", "git", "ssh-keygen", "curl"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%v (.ci/setup.sh test installs it)", err)
		}
	}
	l := New(t, "README.md, \"Two machines\"", "as it says")
	line := link.Shape{Delay: 5 * time.Millisecond} // so that the times are like those that readers will see
	control := NewHost(l.Inet(), "control", line)
	homeA, homeB := NewRouter(l.Inet(), "home-a", NAT{}, line), NewRouter(l.Inet(), "home-b", NAT{}, line)
	laptop, ledger := NewHost(homeA, "laptop"), NewHost(homeB, "ledger-1")
	ledger.serveLedger()

	programs := l.installed()
	shells := map[string]*document.Shell{}
	for _, h := range []*Host{control, laptop, ledger} {
		shells[h.Name] = h.shell(programs)
	}

	readme := document.Open(t, "README.md", filepath.Join(deptest.Root(t), "README.md"))
	var before, section []document.Block
	for _, b := range readme.Blocks() {
		switch {
		case b.Language != "sh":
		case b.On != "":
			section = append(section, b)
		case setUp.MatchString(b.Under):
			before = append(before, b)
		}
	}
	if len(before) == 0 || len(section) < 2 {
		t.Fatalf("README.md has %d blocks for steps 1 to 5 and %d for machines", len(before), len(section))
	}
	// What the reader is told to do: the laptop's key goes into the policy, which
	// is with the servers, and what is for nodes goes to them.
	readme.Try(t, shells["laptop"], section[0], nil, nil)
	key := strings.TrimSpace(shells["laptop"].Run(t, strings.Join(section[0].Lines, "\n")).Out)
	put := []string{"$(writ-agent id --state alice)", key}
	for _, at := range [][2]string{{"127.0.0.1:7443", "7443"}, {"127.0.0.1:8443", "443"}, {"127.0.0.1:3478", "3478"}} {
		put = append(put, at[0], net.JoinHostPort(control.V4.String(), at[1]))
	}
	for _, b := range before {
		readme.Try(t, shells["control"], b, strings.NewReplacer(put...), nil)
	}
	acme := filepath.Join(shells["control"].Home, "acme")
	l.copy(filepath.Join(acme, "join"), shells["laptop"].Home)
	l.copy(filepath.Join(acme, "join"), shells["ledger-1"].Home)
	l.copy(filepath.Join(acme, "ledger.secret"), shells["ledger-1"].Home)
	began := time.Now()
	for _, b := range section[1:] {
		sh := shells[b.On]
		if sh == nil {
			t.Fatalf("README.md:%d: there is no machine %q", b.Begin, b.On)
		}
		readme.Try(t, sh, b, nil, nil)
		if b.On == "ledger-1" {
			// Who goes from one machine to the other leaves it more time than this.
			meets(ledger, sh, "laptop")
		}
	}
	if l.inet.tap.Count(homeA.WAN, homeB.WAN, unix.IPPROTO_UDP) == 0 {
		t.Error("README.md speaks of a direct path, and no packet went from home to home")
	}
	l.Got("as it says, in %.1f s", time.Since(began).Seconds())
	readme.Update(t)
}

// meets waits until the agent that a shell has started on a host is connected to
// a relay and knows a peer.
func meets(h *Host, sh *document.Shell, name string) {
	h.l.t.Helper()
	a := &Agent{Host: h, Client: localapi.Dial(filepath.Join(sh.Home, ".local", "state", "writ", localapi.SocketName))}
	a.Wait("it has a relay and knows "+name, func(s *localapi.Status) bool {
		return peer(s, name) != nil && slices.ContainsFunc(s.Relays, func(r localapi.Relay) bool { return r.State == "connected" })
	})
}

// installed is a directory with the programs as they are installed, and with a
// sudo, which for root is to do what it is told.
func (l *Lab) installed() string {
	l.t.Helper()
	dir := l.t.TempDir()
	document.Install(l.t, bin, dir)
	l.must(os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755))
	return dir
}

// shell is a shell on the host. It is the first process of a PID namespace, so
// that what it starts in the background cannot outlive it.
func (h *Host) shell(programs string) *document.Shell {
	h.l.t.Helper()
	return document.NewShell(h.l.t, func(c *exec.Cmd) error {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
		return h.Do(c.Start)
	}, programs)
}

// serveLedger answers on port 443 of every address of the host. The answer has
// the canary, where curl does not show it.
func (h *Host) serveLedger() {
	h.l.t.Helper()
	at, err := h.ListenTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), 443))
	h.l.must(err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Canary", h.l.canary)
		fmt.Fprintln(w, "Q3 ledger")
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(at) // until it is closed
	}()
	h.l.t.Cleanup(func() {
		s.Close()
		<-done
	})
}

// copy copies a file into a directory, with its mode.
func (l *Lab) copy(file, to string) {
	l.t.Helper()
	info, err := os.Stat(file)
	l.must(err)
	b, err := os.ReadFile(file)
	l.must(err)
	l.must(os.WriteFile(filepath.Join(to, filepath.Base(file)), b, info.Mode().Perm()))
}
