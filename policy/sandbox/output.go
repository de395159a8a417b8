package sandbox

import "sync"

const (
	// headSize keeps how it began; tailSize what the runtime prints at the end,
	// which is a line of reason and a stack of some hundred frames.
	headSize = 16 << 10
	tailSize = 64 << 10
)

// An output keeps the beginning and the end of what is written to it.
type output struct {
	mu      sync.Mutex
	head    []byte // guarded by mu: the first headSize bytes
	tail    []byte // guarded by mu: what followed, at most twice tailSize
	dropped bool   // guarded by mu: something between them is gone
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	if room := headSize - len(o.head); room > 0 {
		take := min(room, len(p))
		o.head = append(o.head, p[:take]...)
		p = p[take:]
	}
	if len(p) > tailSize {
		p, o.dropped = p[len(p)-tailSize:], true
		o.tail = o.tail[:0]
	}
	o.tail = append(o.tail, p...)
	if len(o.tail) > 2*tailSize {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-tailSize:]...)
		o.dropped = true
	}
	return n, nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	tail, dropped := o.tail, o.dropped
	if len(tail) > tailSize {
		tail, dropped = tail[len(tail)-tailSize:], true
	}
	if dropped {
		return string(o.head) + "\n[…]\n" + string(tail)
	}
	return string(o.head) + string(tail)
}
