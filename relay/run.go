package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/relay/internal/server"
	"github.com/writmesh/writ/relay/stun"
)

// Config is what serve is started with.
type Config struct {
	State   string   `required:"" placeholder:"DIR" help:"Directory of the relay's state."`
	Listen  string   `default:":443" placeholder:"ADDR" help:"Where nodes connect, TCP (${default})."`
	STUN    []string `name:"stun" sep:"none" default:":3478" placeholder:"ADDR" help:"Where to answer STUN, UDP: IP:PORT, or :PORT for both families (${default}). Repeat it for more; none for nowhere."`
	Join    string   `required:"" placeholder:"STRING" help:"The network's join string, as agents are given it, or the name of a file with it."`
	Metrics string   `placeholder:"ADDR" help:"Serve Prometheus metrics at http://ADDR/metrics."`
}

// An admitter decides who may use the relay, and keeps itself current.
type admitter interface {
	server.Admitter
	// Follow keeps what the admitter holds up to date until ctx is done, and
	// calls changed after each change. An error ends the relay.
	Follow(ctx context.Context, changed func()) error
}

// version is stamped by the linker.
var version = "devel"

// admitterFor locks the state directory and makes the admitter of the network
// that the join string names. Release gives the directory back.
func admitterFor(cfg Config, log *slog.Logger) (adm admitter, release func(), err error) {
	join, err := papers.ReadJoinString(cfg.Join)
	if err != nil {
		return nil, nil, err
	}
	release, err = lock(cfg.State)
	if err != nil {
		return nil, nil, err
	}
	identity, err := loadIdentity(cfg.State)
	if err == nil {
		adm, err = newNetwork(cfg.State, join, identity, log)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return adm, release, nil
}

// run serves until ctx is done, and then drains.
func run(ctx context.Context, cfg Config, adm admitter, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	identity, err := loadIdentity(cfg.State)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	s, err := server.New(server.Config{Identity: identity, Admitter: adm, Log: log, Registerer: registry})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	asked, err := listenSTUN(ctx, cfg.STUN, log)
	if err != nil {
		ln.Close()
		return err
	}
	stuns, err := stun.New(stun.Config{Log: log})
	if err == nil {
		err = registry.Register(stunCollector{stuns})
	}
	if err != nil {
		ln.Close()
		for _, c := range asked {
			c.Close()
		}
		return err
	}
	log.Info("relay listens", "addr", ln.Addr(), "key", identity.Public())

	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	// start runs one part; the end of any ends all.
	start := func(part string, f func() error) {
		group.Go(func() {
			defer cancel()
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", part, err))
			}
		})
	}
	start("serve", func() error { return s.Serve(ctx, ln) })
	for _, c := range asked {
		start("stun", func() error { return stuns.Serve(ctx, c) })
	}
	start("follow", func() error { return adm.Follow(ctx, s.Recheck) })
	if cfg.Metrics != "" {
		start("metrics", func() error { return serveMetrics(ctx, cfg.Metrics, registry, log) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// serveMetrics answers /metrics until ctx is done.
func serveMetrics(ctx context.Context, addr string, registry *prometheus.Registry, log *slog.Logger) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	log.Info("metrics", "url", "http://"+ln.Addr().String()+"/metrics")
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	h := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
