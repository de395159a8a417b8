package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// table keeps the nftables table. Every change is one transaction; between them
// the kernel's generation number tells whether anybody else changed anything.
type table struct {
	// Set at construction.
	link string

	// Owned by who calls; the Router's mu guards them.
	made   bool
	gen    uint32 // generation after our last transaction; 0: not known
	prefix netip.Prefix
	have   sets
	past   Drops // counted by tables that were replaced
}

const (
	chainArriving = "arriving"
	chainLeaving  = "leaving"

	// postroutingPriority is after every translation of addresses (100), so that
	// what is judged is what leaves.
	postroutingPriority = 300

	// elementsPerMessage keeps a message's list of elements well under the 64 KiB
	// that the length of an attribute can say; an IPv6 element takes 28 bytes.
	elementsPerMessage = 1000

	// A transaction is sent as a whole, and answered message by message. These
	// hold one with MaxPeers addresses.
	writeBuffer = 16 << 20
	readBuffer  = 4 << 20
)

// The rules' comments say what each counts.
const (
	countSource      = "source in the mesh"
	countDestination = "own address"
	countClear       = "to the mesh in clear"
)

func newTable(link string) *table { return &table{link: link} }

// openTables opens a connection to nftables. Each transaction has its own, so that
// the answers to one that failed are not taken for another's.
func openTables() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(writeBuffer), c.SetReadBuffer(readBuffer))
	}))
}

func tableRef() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// probeTable says why nftables cannot be used, if so.
func probeTable() error {
	_, err := generation()
	return err
}

// generation returns the number of the ruleset, which every transaction of
// anybody in this network namespace increments.
func generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of nftables: %w", err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		if id, _, _ := attribute(m[nl.SizeofNfgenmsg:], unix.NFTA_GEN_ID); len(id) == 4 {
			return binary.BigEndian.Uint32(id), nil
		}
	}
	return 0, errors.New("ask for the generation of nftables: no answer")
}

// transact runs one transaction and learns its generation number.
func (t *table) transact(fill func(c *nftables.Conn) error) error {
	before, err := generation()
	if err != nil {
		return err
	}
	t.gen = 0
	c, err := openTables()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if err := fill(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	// If somebody else's transaction came between, ours cannot be told from it, and
	// the next Set looks again.
	if after, err := generation(); err == nil && after == before+1 {
		t.gen = after
	}
	return nil
}

// admit makes the table drop for everything in s, beside what it had.
func (t *table) admit(s State) error {
	want := s.sets()
	now, err := generation()
	if err != nil {
		return err
	}
	if !t.made || t.gen != now || t.prefix != s.Prefix6 {
		return t.replace(s.Prefix6, want)
	}
	err = t.change((*nftables.Conn).SetAddElements, want, func(p pair) []netip.Addr { return without(p.want, p.have) })
	if err != nil {
		return err
	}
	for _, p := range t.pairs(want) {
		maps.Copy(p.have, p.want)
	}
	return nil
}

// forget makes the table drop for nothing but s, with which admit was called.
func (t *table) forget(s State) error {
	want := s.sets()
	err := t.change((*nftables.Conn).SetDeleteElements, want, func(p pair) []netip.Addr { return without(p.have, p.want) })
	if err != nil {
		return err
	}
	t.have = want
	return nil
}

// elements is a way to change the elements of a set.
type elements func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error

// change does it to what pick takes of each pair, in one transaction if that is
// anything.
func (t *table) change(do elements, want sets, pick func(pair) []netip.Addr) error {
	picked := make(map[*nftables.Set][]netip.Addr)
	for _, p := range t.pairs(want) {
		if addrs := pick(p); len(addrs) > 0 {
			picked[p.set] = addrs
		}
	}
	if len(picked) == 0 {
		return nil
	}
	return t.transact(func(c *nftables.Conn) error {
		for set, addrs := range picked {
			if err := inMessages(c, set, addrs, do); err != nil {
				return err
			}
		}
		return nil
	})
}

// pair is one set with what it has and is to have.
type pair struct {
	set        *nftables.Set
	have, want map[netip.Addr]bool
}

func (t *table) pairs(want sets) []pair {
	set := func(name string, of nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: tableRef(), Name: name, KeyType: of, KeyByteOrder: binaryutil.BigEndian}
	}
	return []pair{
		{set("mesh4", nftables.TypeIPAddr), t.have.mesh4, want.mesh4},
		{set("mesh6", nftables.TypeIP6Addr), t.have.mesh6, want.mesh6},
		{set("own4", nftables.TypeIPAddr), t.have.own4, want.own4},
		{set("own6", nftables.TypeIP6Addr), t.have.own6, want.own6},
	}
}

// inMessages gives elements to do in messages that are not too long.
func inMessages(c *nftables.Conn, set *nftables.Set, addrs []netip.Addr, do elements) error {
	for len(addrs) > 0 {
		n := min(len(addrs), elementsPerMessage)
		values := make([]nftables.SetElement, n)
		for i, a := range addrs[:n] {
			values[i].Key = a.AsSlice()
		}
		if err := do(c, set, values); err != nil {
			return err
		}
		addrs = addrs[n:]
	}
	return nil
}

// replace makes the table anew, in one transaction with the end of the old one.
func (t *table) replace(prefix netip.Prefix, want sets) error {
	if t.made {
		// Where somebody removed the table its counts are gone with it.
		if now, err := readDrops(); err == nil {
			t.past = t.past.plus(now)
		}
	}
	t.made = false
	err := t.transact(func(c *nftables.Conn) error {
		ref := tableRef()
		c.AddTable(ref) // so that there is one to remove
		c.DelTable(ref)
		c.AddTable(ref)
		byName := make(map[string]*nftables.Set)
		for _, p := range t.pairs(want) {
			if err := c.AddSet(p.set, nil); err != nil {
				return err
			}
			if err := inMessages(c, p.set, without(p.want, nil), (*nftables.Conn).SetAddElements); err != nil {
				return err
			}
			byName[p.set.Name] = p.set
		}
		accept := nftables.ChainPolicyAccept
		arriving := c.AddChain(&nftables.Chain{
			Name: chainArriving, Table: ref, Type: nftables.ChainTypeFilter, Policy: &accept,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		})
		leaving := c.AddChain(&nftables.Chain{
			Name: chainLeaving, Table: ref, Type: nftables.ChainTypeFilter, Policy: &accept,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(postroutingPriority),
		})
		for _, name := range []string{t.link, "lo"} {
			c.AddRule(&nftables.Rule{Table: ref, Chain: arriving, Exprs: byInterface(expr.MetaKeyIIFNAME, name)})
			c.AddRule(&nftables.Rule{Table: ref, Chain: leaving, Exprs: byInterface(expr.MetaKeyOIFNAME, name)})
		}
		drop := func(chain *nftables.Chain, comment string, match ...expr.Any) {
			c.AddRule(&nftables.Rule{
				Table: ref, Chain: chain,
				Exprs:    append(match, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}),
				UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
			})
		}
		drop(arriving, countSource, inSet(source4, byName["mesh4"])...)
		drop(arriving, countSource, inSet(source6, byName["mesh6"])...)
		drop(arriving, countDestination, inSet(destination4, byName["own4"])...)
		drop(arriving, countDestination, inSet(destination6, byName["own6"])...)
		drop(leaving, countClear, inSet(destination4, byName["mesh4"])...)
		drop(leaving, countClear, inSet(destination6, byName["mesh6"])...)
		if prefix.IsValid() {
			drop(arriving, countSource, inPrefix(source6, prefix)...)
			drop(leaving, countClear, inPrefix(destination6, prefix)...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.made, t.prefix, t.have = true, prefix, want
	return nil
}

// byInterface accepts, for this chain, what comes or goes by an interface.
func byInterface(which expr.MetaKey, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{
		&expr.Meta{Key: which, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// field is an address in a header (RFC 791 section 3.1, RFC 8200 section 3).
type field struct {
	family         byte
	offset, length uint32
}

var (
	source4      = field{unix.NFPROTO_IPV4, 12, 4}
	destination4 = field{unix.NFPROTO_IPV4, 16, 4}
	source6      = field{unix.NFPROTO_IPV6, 8, 16}
	destination6 = field{unix.NFPROTO_IPV6, 24, 16}
)

// load puts the field into register 1, of packets of its family alone.
func (f field) load() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length},
	}
}

func inSet(f field, set *nftables.Set) []expr.Any {
	return append(f.load(), &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID})
}

func inPrefix(f field, p netip.Prefix) []expr.Any {
	n := toIPNet(p)
	return append(f.load(),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: n.Mask, Xor: make([]byte, f.length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP})
}

// drops returns what was counted since the Router was made.
func (t *table) drops() (Drops, error) {
	if !t.made {
		return t.past, nil
	}
	now, err := readDrops()
	if err != nil {
		return t.past, err
	}
	return t.past.plus(now), nil
}

func (d Drops) plus(e Drops) Drops {
	return Drops{Source: d.Source + e.Source, Destination: d.Destination + e.Destination, Clear: d.Clear + e.Clear}
}

// readDrops reads the table's counters.
func readDrops() (Drops, error) {
	c, err := openTables()
	if err != nil {
		return Drops{}, err
	}
	defer c.CloseLasting()
	var d Drops
	for _, chain := range []string{chainArriving, chainLeaving} {
		rules, err := c.GetRules(tableRef(), &nftables.Chain{Name: chain})
		if err != nil {
			return Drops{}, fmt.Errorf("read counters of nftables table inet %s: %w", TableName, err)
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			for _, e := range r.Exprs {
				counter, ok := e.(*expr.Counter)
				if !ok {
					continue
				}
				switch comment {
				case countSource:
					d.Source += counter.Packets
				case countDestination:
					d.Destination += counter.Packets
				case countClear:
					d.Clear += counter.Packets
				}
			}
		}
	}
	return d, nil
}

// removeTable removes the table if there is one.
func removeTable() error {
	c, err := openTables()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	c.AddTable(tableRef())
	c.DelTable(tableRef())
	if err := c.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove nftables table inet %s: %w", TableName, err)
	}
	return nil
}
