package localapi

import (
	"encoding/json"
	"net/netip"
	"time"
)

// A Status is the node as it stands.
type Status struct {
	Version int64  `json:"version"` // rises with every change worth telling
	Program string `json:"program"`

	Network string       `json:"network"`
	Node    string       `json:"node"` // id
	Name    string       `json:"name,omitempty"`
	Who     []string     `json:"who,omitempty"` // its principals
	Addrs   []netip.Addr `json:"addrs,omitempty"`
	State   string       `json:"state"`         // "waiting", "refused", "up" or "out"
	Why     string       `json:"why,omitempty"` // of refused, out and waiting

	Commit  string    `json:"commit,omitempty"` // of the revision enforced
	Epoch   int64     `json:"epoch,omitempty"`
	Seq     int64     `json:"seq,omitempty"`
	Issued  time.Time `json:"issued,omitzero"`
	Digest  string    `json:"digest,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // of the session

	Interface string `json:"interface,omitempty"` // of the mesh; empty in userspace mode
	Port      uint16 `json:"port,omitempty"`      // of UDP, here
	NAT       *NAT   `json:"nat,omitempty"`       // as last measured; nil before

	Coordinator Coordinator `json:"coordinator"`
	Relays      []Relay     `json:"relays,omitempty"`
	Peers       []Peer      `json:"peers,omitempty"`
	Nobodies    []Nobody    `json:"nobodies,omitempty"`

	Alarms   []Alarm          `json:"alarms,omitempty"`
	Refusals map[string]int64 `json:"refusals,omitempty"` // documents, by kind
	Filter   Filter           `json:"filter"`
	Drops    Drops            `json:"drops,omitzero"`
	Proxy    string           `json:"proxy,omitempty"` // where SOCKS5 and HTTP are served
}

// A Coordinator is how following goes.
type Coordinator struct {
	Addr     string    `json:"addr,omitempty"` // empty while none is connected
	Since    time.Time `json:"since,omitzero"`
	Heard    time.Time `json:"heard,omitzero"`
	CaughtUp bool      `json:"caughtUp"`
	Error    string    `json:"error,omitempty"`
}

// A Relay is one connection to a relay.
type Relay struct {
	Name  string        `json:"name"`
	Addr  string        `json:"addr"`
	Home  bool          `json:"home"`
	State string        `json:"state"`
	RTT   time.Duration `json:"rtt,omitempty"` // nanoseconds
	Error string        `json:"error,omitempty"`
}

// A Peer is a node that may reach this one or that this one may reach.
type Peer struct {
	Node      string       `json:"node"`
	Name      string       `json:"name"`
	Who       []string     `json:"who"`
	Addrs     []netip.Addr `json:"addrs"`
	Path      string       `json:"path"` // "direct ADDRESS:PORT", "relay NAME", both with " + " between, or "none"
	Direct    bool         `json:"direct"`
	RTT       Duration     `json:"rtt,omitempty"`       // of the direct path, as last probed
	NotDirect string       `json:"notDirect,omitempty"` // why it goes by relay
	Handshake time.Time    `json:"handshake,omitzero"`
	Rx        uint64       `json:"rx"`
	Tx        uint64       `json:"tx"`

	Endpoints []Endpoint `json:"endpoints,omitempty"` // candidates for a direct path, best first
	Steps     []Step     `json:"steps,omitempty"`     // the last changes of the path, oldest first
}

// A Duration is in nanoseconds.
type Duration = time.Duration

// An Endpoint is an address at which a peer may be found, and what came of
// trying.
type Endpoint struct {
	Addr   netip.AddrPort `json:"addr"`
	Kind   string         `json:"kind"`
	Result string         `json:"result"`
	RTT    Duration       `json:"rtt,omitempty"`
}

// A Step is one change of a peer's path.
type Step struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// A NAT is how this node looks from outside.
type NAT struct {
	At        time.Time        `json:"at"`
	Mapping   string           `json:"mapping"`             // in RFC 4787's words
	Endpoints []netip.AddrPort `json:"endpoints,omitempty"` // that peers are told
	Words     []string         `json:"words,omitempty"`     // the same for people
}

// A Nobody is a node whose papers prove too little.
type Nobody struct {
	Node string `json:"node"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

// An Alarm is something that a person should know.
type Alarm struct {
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"text"`
}

// A Filter is what the packet filter counted.
type Filter struct {
	Flows    int               `json:"flows"`
	Passed   map[string]uint64 `json:"passed"`  // packets, by reason
	Dropped  map[string]uint64 `json:"dropped"` // packets, by reason
	Rules    map[string]uint64 `json:"rules"`   // flows let in, by rule
	LastCut  int               `json:"lastCut"` // flows that the last swap of rules cut
	Contests []netip.Addr      `json:"contests,omitempty"`
}

// Drops are packets that were dropped since the agent began, other than by the
// filter, by who dropped them. What did not happen is left out.
type Drops struct {
	Firewall Firewall `json:"firewall,omitzero"` // by the machine's packet filter
	Device   uint64   `json:"device,omitempty"`  // from the interface, malformed
	Tunnel   Tunnel   `json:"tunnel,omitzero"`   // by WireGuard and before it
	Bind     Bind     `json:"bind,omitzero"`     // of WireGuard's sealed messages

	// Underlay has the path engine's messages and answers of STUN servers, by
	// reason in words.
	Underlay map[string]uint64 `json:"underlay,omitempty"`
}

// A Firewall is what the agent's nftables table dropped.
type Firewall struct {
	Source      uint64 `json:"source,omitempty"`      // from the mesh, by another interface
	Destination uint64 `json:"destination,omitempty"` // to the node's mesh address, by another interface
	Clear       uint64 `json:"clear,omitempty"`       // to the mesh, about to leave in clear
}

// A Tunnel is what packets inside the mesh were dropped for.
type Tunnel struct {
	ForgedSource uint64 `json:"forgedSource,omitempty"` // from a peer, by an address that is not its own
	Unrouted     uint64 `json:"unrouted,omitempty"`     // to no peer
	NoSession    uint64 `json:"noSession,omitempty"`    // too many wait for a session
	HeldFull     uint64 `json:"heldFull,omitempty"`     // too many wait for a peer to be set up
	HeldLost     uint64 `json:"heldLost,omitempty"`     // waited for a peer that is none any more
	Expired      uint64 `json:"expired,omitempty"`      // lost inside WireGuard, or not readable by it
	InjectFull   uint64 `json:"injectFull,omitempty"`   // the filter's own, without room
}

// A Bind is what sealed messages were dropped for, as they came and went.
type Bind struct {
	Forged   uint64 `json:"forged,omitempty"`   // handshakes made without this node's public key
	Unasked  uint64 `json:"unasked,omitempty"`  // handshakes by UDP from an address that is no peer's
	Foreign  uint64 `json:"foreign,omitempty"`  // of no known kind, by UDP
	Repeated uint64 `json:"repeated,omitempty"` // handshakes: copies, or too many of a node
	Full     uint64 `json:"full,omitempty"`     // without room
	Closed   uint64 `json:"closed,omitempty"`   // by relay, while the agent ended
	Size     uint64 `json:"size,omitempty"`     // by relay, empty or too long
	Unsent   uint64 `json:"unsent,omitempty"`   // that no path took
}

// A Whois is who has an address.
type Whois struct {
	Node   string       `json:"node"`
	Name   string       `json:"name"`
	User   string       `json:"user,omitempty"`
	Tags   []string     `json:"tags,omitempty"`
	Groups []string     `json:"groups,omitempty"`
	Addrs  []netip.Addr `json:"addrs"`
	Self   bool         `json:"self,omitempty"`

	// Posture is what the node reports of itself, by attribute.
	Posture map[string]string `json:"posture,omitempty"`

	// Capabilities are what rules say that the node may do in applications here, by
	// name: each value is what a rule has there, opaque to the network.
	Capabilities map[string][]json.RawMessage `json:"capabilities,omitempty"`
}

// A Pong is the answer to a ping.
type Pong struct {
	Name      string     `json:"name"`
	Addr      netip.Addr `json:"addr"`
	Path      string     `json:"path"` // as in Peer
	Direct    bool       `json:"direct"`
	NotDirect string     `json:"notDirect,omitempty"`
	RTT       Duration   `json:"rtt"`
}
