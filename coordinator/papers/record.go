package papers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/coordinator/trust/body"
)

const (
	recordType = "writ/record/v1"

	// MaxRecord is the largest record with its signature, in bytes.
	MaxRecord = 4 << 10

	// MaxRecordLife is the longest time from issue to end of a record.
	MaxRecordLife = 48 * time.Hour

	maxHomeRelays = 4

	// MaxPosture is how many attributes a record reports at most.
	MaxPosture = 16
)

// A Record is what a node says of itself.
type Record struct {
	Network key.NetworkID
	Node    key.NodeID
	Serial  int64
	WG      key.WGPublic
	Relays  []string          // names of home relays, best first
	Posture map[string]string // what the node reports of itself, by attribute (acl.CheckAttr)
	Issued  time.Time
	Expires time.Time

	hash key.Hash
}

// Hash is the hash of the record's text.
func (r *Record) Hash() key.Hash { return r.hash }

// Text is the record without its signature: what is signed.
func (r *Record) Text() string {
	w := body.NewWriter(recordType)
	w.Line("network", r.Network)
	w.Line("node", r.Node)
	w.Line("serial", r.Serial)
	w.Line("wg", r.WG)
	for _, name := range r.Relays {
		w.Line("relay", name)
	}
	for _, attr := range slices.Sorted(maps.Keys(r.Posture)) {
		w.Line("posture", attr+" "+r.Posture[attr])
	}
	w.Line("issued", r.Issued)
	w.Line("expires", r.Expires)
	return w.String()
}

// readPosture reads the lines of a record's posture, sorted by attribute.
func readPosture(r *body.Reader) (map[string]string, error) {
	var out map[string]string
	for _, line := range r.Many("posture", MaxPosture) {
		attr, value, _ := strings.Cut(line, " ")
		if err := acl.CheckAttr(attr); err != nil {
			return nil, fmt.Errorf("posture: %w", err)
		}
		if err := acl.CheckAttrValue(value); err != nil {
			return nil, fmt.Errorf("posture: %s: %w", attr, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[attr] = value // twice, or out of order: not in canonical form
	}
	return out, nil
}

// SignRecord checks a record and signs it with the node's identity key, whose
// id it fills in.
func SignRecord(r Record, k key.IdentityPrivate) ([]byte, *Record, error) {
	r.Node = k.Public().NodeID()
	parsed, err := parseRecord(r.Text())
	if err != nil {
		return nil, nil, err
	}
	msg, err := trust.SignAs(parsed.Text(), k)
	return msg, parsed, err
}

func parseRecord(text string) (*Record, error) {
	rec := &Record{hash: key.HashOf([]byte(text))}
	r := body.NewReader(recordType, text)
	rec.Network = body.Value(r, "network", key.ParseNetworkID)
	rec.Node = body.Value(r, "node", key.ParseNodeID)
	rec.Serial = r.Int("serial")
	rec.WG = body.Value(r, "wg", key.ParseWGPublic)
	rec.Relays = body.Values(r, "relay", maxHomeRelays, checked(acl.CheckName, "relay"))
	posture, badPosture := readPosture(r)
	rec.Posture = posture
	rec.Issued = r.Time("issued", false)
	rec.Expires = r.Time("expires", false)
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("record: %w", err)
	case badPosture != nil:
		return nil, fmt.Errorf("record: %w", badPosture)
	case !rec.Expires.After(rec.Issued), rec.Expires.Sub(rec.Issued) > MaxRecordLife:
		return nil, fmt.Errorf("record: lives from %s to %s, want at most %s", rec.Issued, rec.Expires, MaxRecordLife)
	case rec.Text() != text:
		return nil, errors.New("record: not in canonical form")
	}
	return rec, nil
}

// OpenRecord verifies a record of the node with this identity key and parses it.
// Whether it has expired or been superseded is the holder's to check.
func OpenRecord(msg []byte, network key.NetworkID, id key.IdentityPublic) (*Record, error) {
	text, err := trust.OpenFrom(msg, MaxRecord, id)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	r, err := parseRecord(text)
	switch {
	case err != nil:
		return nil, err
	case r.Network != network:
		return nil, fmt.Errorf("record: of network %s, want %s", r.Network, network)
	case r.Node != id.NodeID():
		return nil, errors.New("record: about another node than its signer")
	}
	return r, nil
}

const (
	ackType = "writ/ack/v1"

	// MaxAck is the largest acknowledgement with its signature, in bytes.
	MaxAck = 2 << 10
)

// An Ack says that a node enforces a revision.
type Ack struct {
	Network  key.NetworkID
	Node     key.NodeID
	Position trust.Position
	Manifest key.Hash
	Digest   key.Hash // of what it enforces: see netmap.Digest
	Issued   time.Time
}

// Text is the acknowledgement without its signature: what is signed.
func (a *Ack) Text() string {
	w := body.NewWriter(ackType)
	w.Line("network", a.Network)
	w.Line("node", a.Node)
	w.Line("epoch", a.Position.Epoch)
	w.Line("seq", a.Position.Seq)
	w.Line("manifest", a.Manifest)
	w.Line("digest", a.Digest)
	w.Line("issued", a.Issued)
	return w.String()
}

// SignAck signs an acknowledgement with the node's identity key, whose id it
// fills in.
func SignAck(a Ack, k key.IdentityPrivate) ([]byte, error) {
	a.Node = k.Public().NodeID()
	return trust.SignAs(a.Text(), k)
}

// OpenAck verifies an acknowledgement of the node with this identity key.
func OpenAck(msg []byte, network key.NetworkID, id key.IdentityPublic) (*Ack, error) {
	text, err := trust.OpenFrom(msg, MaxAck, id)
	if err != nil {
		return nil, fmt.Errorf("acknowledgement: %w", err)
	}
	a := &Ack{}
	r := body.NewReader(ackType, text)
	a.Network = body.Value(r, "network", key.ParseNetworkID)
	a.Node = body.Value(r, "node", key.ParseNodeID)
	a.Position.Epoch = r.Int("epoch")
	a.Position.Seq = r.Int("seq")
	a.Manifest = body.Value(r, "manifest", key.ParseHash)
	a.Digest = body.Value(r, "digest", key.ParseHash)
	a.Issued = r.Time("issued", false)
	switch err := r.Err(); {
	case err != nil:
		return nil, fmt.Errorf("acknowledgement: %w", err)
	case a.Network != network:
		return nil, fmt.Errorf("acknowledgement: of network %s, want %s", a.Network, network)
	case a.Node != id.NodeID():
		return nil, errors.New("acknowledgement: about another node than its signer")
	case a.Text() != text:
		return nil, errors.New("acknowledgement: not in canonical form")
	}
	return a, nil
}
