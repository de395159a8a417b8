package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writmesh/writ/coordinator/internal/registry"
	"github.com/writmesh/writ/coordinator/internal/server"
	"github.com/writmesh/writ/coordinator/internal/store/bolt"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/key/keyfile"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

type runCmd struct {
	State   string `required:"" type:"path" placeholder:"DIR" help:"Directory for the key and the store; made if there is none."`
	Listen  string `required:"" placeholder:"ADDR" help:"Address to serve on, as in :7443."`
	Root    string `type:"path" placeholder:"FILE|DIR" help:"Root document, or a directory with all of them (root-1.note, …). Needed for the first start."`
	Metrics string `placeholder:"ADDR" help:"Loopback address to serve Prometheus metrics on."`
}

// Run serves until it is told to stop.
func (c *runCmd) Run(e *env) error {
	roots, err := readRoots(c.Root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	id, err := identity(c.State)
	if err != nil {
		return err
	}
	st, err := bolt.Open(c.State)
	if err != nil {
		return err
	}
	defer st.Close()
	reg, err := registry.Open(e.ctx, registry.Config{Store: st, Roots: roots, Log: e.log})
	if errors.Is(err, registry.ErrNoRoot) {
		return fmt.Errorf("%w: give --root with the trust folder of its policy repository", err)
	}
	if err != nil {
		return err
	}
	var metrics net.Listener
	if c.Metrics != "" {
		if metrics, err = listenLoopback(c.Metrics); err != nil {
			return err
		}
		defer metrics.Close()
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	srv := server.New(server.Config{Registry: reg, Identity: id, Log: e.log})
	e.log.Info("coordinator runs", "network", reg.Network(), "listen", l.Addr(), "pin", id.Public(), "version", version)
	g, ctx := errgroup.WithContext(e.ctx)
	g.Go(func() error { return srv.Serve(ctx, l) })
	g.Go(func() error { return srv.ServeAdmin(ctx, c.State, version) })
	if metrics != nil {
		g.Go(func() error { return serveMetrics(ctx, metrics, srv.Metrics()) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.log.Info("coordinator stopped")
	return nil
}

// listenLoopback listens where only this machine reaches: metrics name nodes and
// say who is not up to date.
func listenLoopback(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("metrics: %s is not a loopback address, as in 127.0.0.1:9090", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

func serveMetrics(ctx context.Context, l net.Listener, h http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(l)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("metrics: %w", err)
}

// readRoots reads one root document, or those of a directory.
func readRoots(path string) (docs [][]byte, err error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("root document: %w", err)
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "root-*.note")); err != nil {
			return nil, fmt.Errorf("root document: %w", err)
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("root document: %s has no root-1.note", path)
		}
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return nil, fmt.Errorf("root document: %w", err)
		}
		if !info.Mode().IsRegular() || info.Size() > trust.MaxRoot {
			return nil, fmt.Errorf("root document: %s is not a file of at most %d bytes", f, trust.MaxRoot)
		}
		doc, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("root document: %w", err)
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

const keyFile = "identity.key"

// identity reads the coordinator's key and makes it if there is none.
func identity(dir string) (key.IdentityPrivate, error) {
	return keyfile.Identity(filepath.Join(dir, keyFile))
}

type idCmd struct {
	State string `required:"" type:"path" placeholder:"DIR" help:"Directory for the key; made if there is none."`
}

// Run prints the pin.
func (c *idCmd) Run(e *env) error {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	id, err := identity(c.State)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, id.Public())
	return err
}

type joinStringCmd struct {
	State  string   `required:"" type:"path" placeholder:"DIR" help:"State directory."`
	Addr   []string `required:"" placeholder:"HOST:PORT" help:"Where nodes reach this coordinator; may be given several times."`
	Root   string   `type:"path" placeholder:"FILE|DIR" help:"Root documents, for a coordinator that has not run yet."`
	Secret string   `placeholder:"FILE" help:"Name of the file on the node that holds its enrolment secret."`
}

// Run prints a join string. The network is the running coordinator's, or that of
// the root documents given.
func (c *joinStringCmd) Run(e *env) error {
	if _, err := os.Stat(filepath.Join(c.State, keyFile)); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	id, err := identity(c.State)
	if err != nil {
		return err
	}
	j := papers.JoinString{Secret: c.Secret}
	if j.Network, err = c.network(e); err != nil {
		return err
	}
	for _, a := range c.Addr {
		j.Coordinators = append(j.Coordinators, leaf.Coordinator{Addr: a, Pin: id.Public()})
	}
	text := j.String()
	if _, err := papers.ParseJoinString(text); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, text)
	return err
}

func (c *joinStringCmd) network(e *env) (n key.NetworkID, err error) {
	if c.Root == "" {
		st, err := server.ReadStatus(e.ctx, c.State)
		if err != nil {
			return n, fmt.Errorf("%w; for one that does not run, give --root", err)
		}
		return key.ParseNetworkID(st.Network)
	}
	docs, err := readRoots(c.Root)
	if err != nil {
		return n, err
	}
	return registry.NetworkOf(docs)
}

type statusCmd struct {
	State string `required:"" type:"path" placeholder:"DIR" help:"State directory of the coordinator."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

// Run prints the status.
func (c *statusCmd) Run(e *env) error {
	st, err := server.ReadStatus(e.ctx, c.State)
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(st)
	} else {
		err = st.Print(e.stdout)
	}
	if err == nil && (!st.Converged() || len(st.Damaged) > 0) {
		return errReport
	}
	return err
}
