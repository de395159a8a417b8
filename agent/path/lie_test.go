package path

import (
	"testing"
	"time"

	"github.com/writmesh/writ/agent/disco"
)

// A STUN server that says that this node is at its peer's address costs nothing:
// only the addresses of interfaces are this node's for certain.
func TestLyingSTUNServer(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	lie := Self{Mapping: disco.MappingEndpointIndependent, UDP4: true, Endpoints: []disco.Endpoint{
		{Addr: a.choice[b.id].Direct, Kind: disco.Reflexive},
		{Addr: a.addr, Kind: disco.Interface},
	}}
	before := len(a.verdict(b).Transitions)
	for range 600 {
		a.engine.SetSelf(w.now, lie)
		a.drain()
		w.run(100*time.Millisecond, nil)
	}
	if tr := a.verdict(b).Transitions; len(tr) != before || !bothDirect(a, b)() {
		t.Errorf("the path changed while a STUN server lied: %+v", tr[before:])
	}
}

// An address of this node's own interfaces is never pinged, and a path to one
// that becomes its own is given up.
func TestOwnInterfaceIsNoCandidate(t *testing.T) {
	w, a, b := pair(t, 1)
	talk(t, w, a, b)
	at := a.choice[b.id].Direct
	a.engine.SetSelf(w.now, Self{Endpoints: []disco.Endpoint{{Addr: at, Kind: disco.Interface}}})
	for _, x := range a.engine.Take() {
		if s, ok := x.(Send); ok && s.To == at {
			t.Errorf("%T to this node's own %v", s.Msg, at)
		}
	}
	if v := a.verdict(b); v.State != Relayed {
		t.Errorf("%v to an address that is this node's own, want by relay", v.State)
	}
}
