package server

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/wire"
)

// Whatever a caller says that it has is read or refused, and what is read says
// the same when it is written again.
func FuzzHaveOf(f *testing.F) {
	id := key.NewIdentity().Public().NodeID()
	for _, m := range []*wire.FollowRequest{
		{},
		{RootVersion: 1, Epoch: 1, Seq: 2, Manifest: make([]byte, 32), Peers: []*wire.PeerHave{{Node: id[:], AdmissionSerial: 1}}},
		{Manifest: []byte("short")},
		{Peers: []*wire.PeerHave{{Node: []byte("short")}, nil}},
		{Everything: true, Peers: []*wire.PeerHave{{Node: id[:], RecordSerial: 9}}},
		{Epoch: -1, Seq: -1, RootVersion: -1},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m wire.FollowRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		h, err := haveOf(&m)
		if err != nil || m.GetEverything() {
			return
		}
		again, err := haveOf(wire.FromHave(h, ""))
		if err != nil || again.Manifest != h.Manifest || again.Position != h.Position || len(again.Peers) != len(h.Peers) {
			t.Errorf("%+v reads back as %+v, %v", h, again, err)
		}
	})
}
