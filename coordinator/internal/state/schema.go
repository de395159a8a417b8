package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

const (
	tableRoots     = "roots"
	tableEnded     = "ended"
	tableRevisions = "revisions"
	tableLeaves    = "leaves"
	tableEdges     = "edges"
	tableNodes     = "nodes"
	tableLog       = "log"
	tableJoins     = "joins"
	tablePresence  = "presence"
)

const (
	indexID        = "id"
	indexBlob      = "blob"
	indexTo        = "to"
	indexFrom      = "from"
	indexSelector  = "selector"
	indexPrincipal = "principal"
	indexChanged   = "changed"
)

var schema = &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
	tableRoots:     table(tableRoots, unique(func(r Root) []byte { return number(r.Root.Version) })),
	tableEnded:     table(tableEnded, unique(func(Ended) []byte { return []byte{0} })),
	tableRevisions: table(tableRevisions, unique(func(r *Revision) []byte { return position(r.Manifest.Position) })),
	tableLeaves: table(tableLeaves,
		unique(func(l *Leaf) []byte { return l.Name[:] }),
		by(indexBlob, func(l *Leaf) [][]byte { return [][]byte{l.Hash[:]} })),
	tableEdges: table(tableEdges,
		unique(func(e Edge) []byte { return append(text(e.To), text(e.From)...) }),
		by(indexTo, func(e Edge) [][]byte { return [][]byte{text(e.To)} }),
		by(indexFrom, func(e Edge) [][]byte { return [][]byte{text(e.From)} })),
	tableNodes: table(tableNodes,
		unique(func(n *Node) []byte { return n.ID[:] }),
		by(indexSelector, func(n *Node) [][]byte { return texts(n.selectors) }),
		by(indexPrincipal, func(n *Node) [][]byte { return hashes(n.principals) })),
	tableLog:   table(tableLog, unique(func(e LogEntry) []byte { return number(e.Log) })),
	tableJoins: table(tableJoins, unique(func(j *Join) []byte { return j.ID[:] })),
	tablePresence: table(tablePresence,
		unique(func(p *Presence) []byte { return p.ID[:] }),
		by(indexChanged, func(p *Presence) [][]byte { return [][]byte{number(int64(p.Changed))} })),
}}

func table(name string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, i := range indexes {
		t.Indexes[i.Name] = i
	}
	return t
}

// unique is the index "id" of a table of rows T.
func unique[T any](of func(T) []byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: indexID, Unique: true, Indexer: single[T]{of: of}}
}

// by is an index with any number of values for each row. A value must not be the
// beginning of another: numbers and hashes are of one length, texts end in zero.
func by[T any](name string, of func(T) [][]byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: multi[T]{of: of}}
}

type single[T any] struct {
	argument
	of func(T) []byte
}

func (i single[T]) FromObject(row any) (bool, []byte, error) {
	r, ok := row.(T)
	if !ok {
		return false, nil, fmt.Errorf("row of type %T in a table of %T", row, *new(T))
	}
	return true, i.of(r), nil
}

type multi[T any] struct {
	argument
	of func(T) [][]byte
}

func (i multi[T]) FromObject(row any) (bool, [][]byte, error) {
	r, ok := row.(T)
	if !ok {
		return false, nil, fmt.Errorf("row of type %T in a table of %T", row, *new(T))
	}
	values := i.of(r)
	return len(values) > 0, values, nil
}

// argument makes index values of what a query asks for.
type argument struct{}

func (argument) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, want 1", len(args))
	}
	switch v := args[0].(type) {
	case string:
		return text(v), nil
	case []byte:
		return v, nil
	case key.NodeID:
		return v[:], nil
	case key.Hash:
		return v[:], nil
	case int64:
		return number(v), nil
	case trust.Position:
		return position(v), nil
	}
	return nil, errors.New("argument of an unknown type")
}

func text(s string) []byte { return append([]byte(s), 0) }

func texts(in []string) (out [][]byte) {
	for _, s := range in {
		out = append(out, text(s))
	}
	return out
}

func hashes(in []key.Hash) (out [][]byte) {
	for _, h := range in {
		out = append(out, h[:])
	}
	return out
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func position(p trust.Position) []byte { return append(number(p.Epoch), number(p.Seq)...) }
