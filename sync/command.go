package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/sync/apply"
	"github.com/writmesh/writ/sync/watch"
)

// flags is the command line.
type flags struct {
	Version kong.VersionFlag `help:"Print the version."`

	Run       runCmd       `cmd:"" help:"Follow the policy repository and sign its revisions."`
	Status    statusCmd    `cmd:"" help:"Show the revision in force, what was refused, and who enforces it."`
	Inventory inventoryCmd `cmd:"" help:"Print the admitted nodes, for policy diff --inventory."`
}

// env is what commands act on.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// errNo is an answer that is no: exit code 1.
type errNo struct{ error }

var errHelp = errors.New("help was printed")

// command is the program, without the process around it.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	var f flags
	asked := false
	parser, err := kong.New(&f, kong.Name("sync"), kong.Vars{"version": version}, kong.Writers(stdout, stderr), kong.UsageOnError(),
		kong.Description("Turns the commits of a policy repository into what a Writ network obeys."),
		kong.Exit(func(int) { asked = true; panic(errHelp) }))
	if err != nil {
		fmt.Fprintln(stderr, "sync:", err)
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
	if err == nil {
		err = parsed.Run(&env{ctx, stdout, stderr})
	}
	var no errNo
	switch {
	case err == nil:
		return 0
	case errors.As(err, &no):
		return 1
	default:
		fmt.Fprintln(stderr, "sync:", err)
		return 2
	}
}

// parse turns kong's way to end after help into a return.
func parse(p *kong.Kong, args []string) (c *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil && r != any(errHelp) {
			panic(r)
		}
	}()
	return p.Parse(args)
}

type runCmd struct {
	State         string        `required:"" placeholder:"DIR" help:"State directory."`
	Repo          string        `required:"" placeholder:"URL" help:"Policy repository: a path, file://, http:// or https:// URL."`
	Branch        string        `default:"main" placeholder:"NAME" help:"Branch to follow (${default})."`
	Credentials   string        `placeholder:"FILE" help:"For http(s): a token, or user:password."`
	Root          []string      `required:"" placeholder:"FILE" help:"Root document; version 1 first."`
	PolicyKey     string        `required:"" placeholder:"FILE" help:"Signs manifests."`
	AdmissionKey  string        `required:"" placeholder:"FILE" help:"Signs admissions and ended lists."`
	SealKey       string        `required:"" placeholder:"FILE" help:"Opens join proofs."`
	Coordinator   []string      `required:"" placeholder:"ADDR=PIN" help:"Where to publish."`
	Poll          time.Duration `default:"30s" help:"Between fetches without a webhook (${default})."`
	Webhook       string        `placeholder:"ADDR" help:"Listen for a forge's webhooks."`
	WebhookSecret string        `placeholder:"FILE" help:"Shared secret of the webhooks."`
	Metrics       string        `placeholder:"ADDR" help:"Serve Prometheus metrics."`
	Log           string        `default:"info" enum:"debug,info,warn,error" help:"Log level (${default})."`
}

func (r *runCmd) Run(e *env) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.Log)); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
	if r.Poll < time.Second || r.Poll > 24*time.Hour {
		return fmt.Errorf("--poll %s: want 1s to 24h", r.Poll)
	}
	if err := os.MkdirAll(r.State, 0o700); err != nil {
		return err
	}
	unlock, err := lock(r.State)
	if err != nil {
		return err
	}
	defer unlock()
	cfg, err := r.config(log)
	if err != nil {
		return err
	}
	a, err := apply.New(cfg)
	if err != nil {
		return err
	}
	servers, err := r.listen(a, log)
	if err != nil {
		return err
	}
	tasks, ctx := errgroup.WithContext(e.ctx)
	for _, s := range servers {
		tasks.Go(func() error { return apply.Serve(ctx, s.listener, s.handler) })
	}
	tasks.Go(func() error { return a.ServeStatus(ctx) })
	tasks.Go(func() error { return a.Run(ctx) })
	log.Info("sync runs", "version", version, "repo", r.Repo, "branch", r.Branch)
	if err := tasks.Wait(); e.ctx.Err() == nil {
		return err
	}
	return nil
}

// A server is what answers on one of the flags' addresses.
type server struct {
	listener net.Listener
	handler  http.Handler
}

// listen opens the addresses that the flags name.
func (r *runCmd) listen(a *apply.Applier, log *slog.Logger) (out []server, err error) {
	defer func() {
		if err != nil {
			for _, s := range out {
				s.listener.Close()
			}
		}
	}()
	open := func(what, addr string, h http.Handler) error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("--%s: %w", what, err)
		}
		log.Info(what+" listens", "addr", l.Addr())
		out = append(out, server{l, h})
		return nil
	}
	switch {
	case r.Webhook != "":
		secret, err := secretFile(r.WebhookSecret)
		if err != nil {
			return out, fmt.Errorf("--webhook-secret: %w", err)
		}
		if err := open("webhook", r.Webhook, watch.Webhook(secret, a.Wake)); err != nil {
			return out, err
		}
	case r.WebhookSecret != "":
		return out, errors.New("--webhook-secret without --webhook")
	}
	if r.Metrics != "" {
		reg := prometheus.NewRegistry()
		if err := apply.Metrics(reg); err != nil {
			return out, err
		}
		reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
		if err := open("metrics", r.Metrics, mux); err != nil {
			return out, err
		}
	}
	return out, nil
}

// config reads the files that the flags name.
func (r *runCmd) config(log *slog.Logger) (c apply.Config, err error) {
	c = apply.Config{Dir: r.State, Log: log, Watch: watch.Config{
		Remote: r.Repo, Branch: r.Branch, Dir: filepath.Join(r.State, "git"), Credentials: r.Credentials, Interval: r.Poll,
	}}
	for _, name := range r.Root {
		b, err := os.ReadFile(name)
		if err != nil {
			return c, fmt.Errorf("--root: %w", err)
		}
		c.Roots = append(c.Roots, b)
	}
	for _, k := range []struct {
		flag, file string
		into       *trust.SigningKey
	}{{"--policy-key", r.PolicyKey, &c.Keys.Policy}, {"--admission-key", r.AdmissionKey, &c.Keys.Admission}} {
		b, err := secretFile(k.file)
		if err == nil {
			*k.into, err = trust.ParseSigningKey(string(b))
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", k.flag, err)
		}
	}
	b, err := secretFile(r.SealKey)
	if err == nil {
		c.Seal, err = key.ParseSealPrivate(string(b))
	}
	if err != nil {
		return c, fmt.Errorf("--seal-key: %w", err)
	}
	for _, s := range r.Coordinator {
		addr, pin, _ := strings.Cut(s, "=")
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return c, fmt.Errorf("--coordinator %q: want HOST:PORT=PIN: %w", s, err)
		}
		p, err := key.ParseIdentityPublic(pin)
		if err != nil {
			return c, fmt.Errorf("--coordinator %q: want HOST:PORT=PIN: %w", s, err)
		}
		c.Coordinators = append(c.Coordinators, leaf.Coordinator{Addr: addr, Pin: p})
	}
	return c, nil
}

// maxSecret bounds a file with a secret: a key has some hundred bytes.
const maxSecret = 4 << 10

// secretFile reads a file that others cannot read.
func secretFile(name string) ([]byte, error) {
	if name == "" {
		return nil, errors.New("no file given")
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe without a writer would wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", name, info.Mode().Perm())
	case info.Size() > maxSecret:
		return nil, fmt.Errorf("%s has %d bytes; a secret has at most %d", name, info.Size(), maxSecret)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return b, nil
}

// lock keeps a second sync from the state directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another sync uses %s", dir)
	}
	return func() { f.Close() }, nil
}

type statusCmd struct {
	State string `required:"" placeholder:"DIR" help:"State directory."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

func (s *statusCmd) Run(e *env) error {
	st, err := apply.DialStatus(s.State).Status(e.ctx, -1)
	if err != nil {
		return err
	}
	if s.JSON {
		if err := printJSON(e.stdout, st); err != nil {
			return err
		}
	} else {
		printStatus(e.stdout, st)
	}
	if !st.OK() {
		return errNo{errors.New("not everything is in order")}
	}
	return nil
}

func printStatus(out io.Writer, st apply.Status) {
	fmt.Fprintf(out, "network      %s\n", st.Network)
	if st.Applied == "" {
		fmt.Fprintln(out, "revision     none yet")
	} else {
		fmt.Fprintln(out, st.Convergence)
	}
	if st.Fetch != "" {
		fmt.Fprintf(out, "fetching     fails: %s\n", st.Fetch)
	}
	if r := st.Refused; r != nil {
		fmt.Fprintf(out, "refused      %s (%s), %s\n", trust.Commit(r.Commit).Short(), r.Stage, reach.Moment(r.At))
		for line := range strings.SplitSeq(r.Reason, "\n") {
			fmt.Fprintf(out, "             %s\n", line)
		}
	}
	if h := trust.Commit(st.Head); st.Head != st.Applied && st.Refused == nil {
		switch {
		case st.Head == "" && st.Fetch != "": // said already
		case st.Head == "":
			fmt.Fprintln(out, "head         not fetched yet")
		case st.Waiting == "":
			fmt.Fprintf(out, "head         %s is being judged\n", h.Short())
		default:
			fmt.Fprintf(out, "head         %s waits: %s\n", h.Short(), st.Waiting)
		}
	}
	for _, c := range st.Coordinator {
		state := "not reached yet"
		switch {
		case c.Error != "":
			state = c.Error
		case c.Seq == st.Seq && c.Seq != 0:
			state = "has the revision"
		case st.Seq == 0:
			state = "nothing to publish yet"
		}
		fmt.Fprintf(out, "coordinator  %s: %s\n", c.Addr, state)
	}
}

type inventoryCmd struct {
	State string `required:"" placeholder:"DIR" help:"State directory."`
}

func (i *inventoryCmd) Run(e *env) error {
	inv, err := apply.DialStatus(i.State).Inventory(e.ctx)
	if err != nil {
		return err
	}
	return printJSON(e.stdout, inv)
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
