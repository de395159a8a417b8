package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/writmesh/writ/agent/router"
	"github.com/writmesh/writ/agent/tunnel/kernel"
)

// A kernelNet is the mesh as the machine's kernel sees it: an interface, and the
// routes and rules around it.
type kernelNet struct {
	device *kernel.Device
	router *router.Router
	log    *slog.Logger

	mu    sync.Mutex // guards the fields below
	want  *router.State
	wrong string // why the kernel does not hold what it should
}

func newKernelNet(name string, noNftables bool, log *slog.Logger) (*kernelNet, error) {
	device, err := kernel.New(kernel.Config{Name: name, MTU: mtu})
	if err != nil {
		return nil, err
	}
	r, err := router.New(router.Config{Interface: name, WithoutNftables: noNftables, Log: log})
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return &kernelNet{device: device, router: r, log: log}, nil
}

// setTimeout is how long the kernel may take; ten thousand peers take it half a
// second.
const setTimeout = 30 * time.Second

// set makes the kernel hold a state. What it refuses is told in the status, and
// tried again with the next netmap or change of the machine's network.
func (k *kernelNet) set(s router.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want = &s
	k.apply()
}

// apply is set, with what is wanted; k.mu is held.
func (k *kernelNet) apply() {
	ctx, cancel := context.WithTimeout(context.Background(), setTimeout)
	defer cancel()
	was := k.wrong
	k.wrong = ""
	if err := k.router.Set(ctx, *k.want); err != nil {
		k.wrong = err.Error()
		if k.wrong != was {
			k.log.Error("the kernel does not take the node's network", "err", err)
		}
	}
}

// watchAgain is how long the watch over the machine's network rests after it
// failed.
const watchAgain = 5 * time.Second

// watch repairs what others take away, and tells of changes of the machine's own
// network, until ctx ends.
func (k *kernelNet) watch(ctx context.Context, moved func()) {
	for {
		err := k.router.Watch(ctx, func(e router.Event) {
			if e.Ours {
				k.repair()
			}
			if e.Network {
				moved()
			}
		})
		if ctx.Err() != nil {
			return
		}
		k.log.Error("changes of the machine's network are not noticed", "err", err)
		t := time.NewTimer(watchAgain)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C: // what happened in between is told by the next
		}
	}
}

// repair makes the kernel hold again what it should.
func (k *kernelNet) repair() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.want != nil {
		k.apply()
	}
}

// warnings are what a person at the machine should know of its network.
func (k *kernelNet) warnings() []string {
	k.mu.Lock()
	wrong := k.wrong
	k.mu.Unlock()
	out := k.router.Warnings()
	if wrong != "" {
		out = append(out, wrong)
	}
	return out
}

// close takes back what is the running node's, and leaves the routes that keep
// its peers' packets from the network in clear.
func (k *kernelNet) close() {
	if err := k.router.Close(); err != nil {
		k.log.Error("the machine's network is not restored", "err", err)
	}
}
