package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/writmesh/writ/agent/localapi"
	"github.com/writmesh/writ/agent/node"
	"github.com/writmesh/writ/agent/proxy"
	"github.com/writmesh/writ/agent/systemd"
	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/papers"
)

// flags is the command line.
type flags struct {
	Version kong.VersionFlag `help:"Print the version."`

	State  string `placeholder:"DIR" help:"The agent's state (default: $$STATE_DIRECTORY, else $$XDG_STATE_HOME/writ, else that of the service if it can be read and the command is not up, else ~/.local/state/writ)."`
	Socket string `placeholder:"PATH" help:"The agent's local API (default DIR/agent.sock; if there is none, that of the service)."`

	Up       upCmd       `cmd:"" help:"Run the agent until it is told to go down; as root, or with --userspace."`
	Status   statusCmd   `cmd:"" help:"Show the node, its peers, relays and coordinator."`
	Ping     pingCmd     `cmd:"" help:"Probe the path to a peer until it is direct, or say why it is not."`
	Netcheck netcheckCmd `cmd:"" help:"Say what kind of NAT this machine is behind."`
	Whois    whoisCmd    `cmd:"" help:"Say who has an address of the mesh, or is behind a forwarded connection."`
	ID       idCmd       `cmd:"" name:"id" help:"Print the node's identity key, as the policy pins it."`
	Down     downCmd     `cmd:"" help:"End the running agent, and wait until it has ended."`
	Cleanup  cleanupCmd  `cmd:"" help:"Remove what an agent leaves when it ends: routes and rules that keep what is meant for the mesh from going elsewhere."`
}

// env is what commands act on.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
	state, socket  string
}

// errNo is an answer that is no: exit code 1.
type errNo struct{ error }

func (e errNo) Unwrap() error { return e.error }

// command is the program, without the process around it.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	var f flags
	asked := false
	parser, err := kong.New(&f, kong.Name("agent"), kong.Vars{"version": version}, kong.Writers(stdout, stderr), kong.UsageOnError(),
		kong.Description("Makes a machine a node of a Writ network."), kong.Exit(func(int) { asked = true; panic(errHelp) }))
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return 2
	}
	if len(args) == 0 {
		parser.Stdout = stderr
		args = []string{"--help"}
		defer func() { code = 2 }()
	}
	parsed, err := parse(parser, args)
	if asked {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return 2
	}
	e := &env{ctx: ctx, stdout: stdout, stderr: stderr, state: f.State, socket: f.Socket}
	if e.state == "" {
		e.state = defaultState(parsed.Command() != "up", serviceState)
	}
	if e.socket == "" {
		e.socket = filepath.Join(e.state, localapi.SocketName)
		if f.State == "" && parsed.Command() != "up" && !exists(e.socket) && exists(serviceSocket) {
			e.socket = serviceSocket
		}
	}
	err = parsed.Run(e)
	var no errNo
	switch {
	case err == nil:
		return 0
	case errors.As(err, &no):
		fmt.Fprintln(stderr, "agent:", err)
		return 1
	default:
		fmt.Fprintln(stderr, "agent:", err)
		return 2
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var errHelp = errors.New("help was printed")

// parse turns kong's way to end after help into a return.
func parse(p *kong.Kong, args []string) (c *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil && r != any(errHelp) {
			panic(r)
		}
	}()
	return p.Parse(args)
}

type upCmd struct {
	Join       string   `placeholder:"STRING" help:"The network's join string, or the name of a file with it; kept for the next time."`
	Name       string   `placeholder:"NAME" help:"The name to ask for (default: this machine's)."`
	SecretFile string   `placeholder:"FILE" help:"A file (mode 0600) with an enrolment secret, for a node whose key the policy does not pin."`
	Interface  string   `default:"writ0" placeholder:"NAME" help:"The network interface to make (${default})."`
	Port       uint16   `placeholder:"PORT" help:"UDP port for direct paths (default: any that is free)."`
	NoNftables bool     `help:"Go without nftables: neighbours on the LAN can then reach the mesh address past the filter."`
	NoDirect   bool     `help:"Send by relay only."`
	Userspace  bool     `help:"Run without privileges and without a network interface, with a proxy instead."`
	Proxy      string   `default:"127.0.0.1:1055" placeholder:"ADDR" help:"In userspace, where the proxy listens, SOCKS5 and HTTP (${default})."`
	Forward    []string `placeholder:"SPEC" help:"In userspace, hand a port of the mesh address to a local server: tcp/PORT=ADDRESS:PORT."`
	Posture    string   `placeholder:"FILE" help:"A file with custom attributes to report, which rules may ask for: {\"diskEncrypted\": \"true\"}. Read again every half minute."`
	Log        string   `default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"debug, info, warn or error (${default})."`
}

func (u *upCmd) Run(e *env) error {
	switch {
	case u.NoDirect && u.Port != 0:
		return errors.New("--port is of direct paths: leave it or --no-direct out")
	case !u.Userspace && len(u.Forward) > 0:
		return errors.New("--forward is for --userspace: with a network interface, local servers listen on the mesh address themselves")
	}
	kept := filepath.Join(e.state, "join")
	join, err := u.join(kept)
	if err != nil {
		return err
	}
	if err := checkProxy(u.Proxy); err != nil {
		return err
	}
	cfg := node.Config{
		Dir: e.state, Socket: e.socket, Join: join, Name: u.Name, Version: version,
		Port: u.Port, NoDirect: u.NoDirect, Posture: u.Posture,
	}
	if u.Userspace {
		cfg.Proxy = u.Proxy
	} else {
		cfg.Interface, cfg.NoNftables = u.Interface, u.NoNftables
	}
	if u.Join != "" {
		cfg.Kept = kept
	}
	if cfg.Name == "" {
		if cfg.Name, err = hostLabel(); err != nil {
			return err
		}
	}
	if err := acl.CheckLabel("node", cfg.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	if file := u.SecretFile; file != "" || join.Secret != "" {
		if file == "" {
			file = join.Secret
		}
		if cfg.Secret, err = readSecret(file); err != nil {
			return err
		}
	}
	for _, s := range u.Forward {
		f, err := proxy.ParseForward(s)
		if err != nil {
			return err
		}
		cfg.Forwards = append(cfg.Forwards, f)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(u.Log)); err != nil {
		return err
	}
	cfg.Log = slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
	cfg.Ready = func() {
		if err := systemd.Notify(systemd.Ready); err != nil {
			cfg.Log.Error("the service manager is not told that the agent is ready", "err", err)
		}
	}
	return node.Run(e.ctx, cfg)
}

// join is the join string of the command line, or the one kept from before.
func (u *upCmd) join(kept string) (j papers.JoinString, err error) {
	if u.Join != "" {
		return papers.ReadJoinString(u.Join)
	}
	if !exists(kept) {
		return j, errors.New("which network? give its join string with --join")
	}
	return papers.ReadJoinString(kept)
}

// checkProxy refuses an address that others could reach, before anything runs.
func checkProxy(addr string) error {
	if addr == "" {
		return nil
	}
	ap, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return fmt.Errorf("--proxy %q: want an address of loopback and a port, as in 127.0.0.1:1055", addr)
	case !ap.Addr().IsLoopback():
		return fmt.Errorf("--proxy %s: whoever reaches the proxy acts as this node, so it listens on loopback only", addr)
	}
	return nil
}

// readSecret reads an enrolment secret from a file that others cannot read.
func readSecret(file string) (s papers.EnrolSecret, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return s, fmt.Errorf("enrolment secret: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("enrolment secret: %s can be read by others (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("enrolment secret: %w", err)
	}
	if s, err = papers.ParseEnrolSecret(string(b)); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// hostLabel is this machine's name as a DNS label.
func hostLabel() (string, error) {
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine's name: %w", err)
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	return h, nil
}

type statusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
	Wait bool `help:"Wait until the node is up; for an agent that does not answer yet, ten seconds."`
}

func (s *statusCmd) Run(e *env) error {
	c := localapi.Dial(e.socket)
	st, err := c.Status(e.ctx, -1)
	for began := time.Now(); s.Wait && absent(err) && time.Since(began) < startTime; {
		if err := lookAgain(e.ctx); err != nil {
			return errNo{err}
		}
		st, err = c.Status(e.ctx, -1)
	}
	for err == nil && s.Wait && st.State != "up" {
		st, err = c.Status(e.ctx, st.Version)
	}
	if err != nil {
		return errNo{err}
	}
	if s.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(st); err != nil {
			return err
		}
	} else {
		printStatus(e.stdout, st)
	}
	if st.State != "up" {
		return errNo{fmt.Errorf("the node is not up: %s", st.Why)}
	}
	return nil
}

// startTime is how long an agent that was just started may take to answer: it
// reads a few files and makes its keys before.
const startTime = 10 * time.Second

// absent reports whether no agent runs, or none does yet.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// lookAgain pauses between two looks at whether an agent runs, of which nothing
// tells.
func lookAgain(ctx context.Context) error {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func addrs[A fmt.Stringer](list []A) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

func short(commit string) string { return commit[:min(7, len(commit))] }

type whoisCmd struct {
	Addr string `arg:"" help:"IP or IP:PORT."`
	JSON bool   `name:"json" help:"Print JSON."`
}

func (w *whoisCmd) Run(e *env) error {
	who, err := localapi.Dial(e.socket).Whois(e.ctx, w.Addr)
	if err != nil {
		return errNo{err}
	}
	if w.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(who)
	}
	fmt.Fprintf(e.stdout, "node    %s\n", who.Name)
	if who.User != "" {
		fmt.Fprintf(e.stdout, "user    %s\n", who.User)
	}
	for _, t := range who.Tags {
		fmt.Fprintf(e.stdout, "tag     %s\n", t)
	}
	for _, g := range who.Groups {
		fmt.Fprintf(e.stdout, "group   %s\n", g)
	}
	for _, attr := range slices.Sorted(maps.Keys(who.Posture)) {
		fmt.Fprintf(e.stdout, "posture %s %s\n", attr, who.Posture[attr])
	}
	for _, name := range slices.Sorted(maps.Keys(who.Capabilities)) {
		for _, value := range who.Capabilities[name] {
			fmt.Fprintf(e.stdout, "may     %s %s\n", name, value)
		}
	}
	fmt.Fprintf(e.stdout, "id      %s\n", who.Node)
	return nil
}
