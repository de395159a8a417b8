package server_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"connectrpc.com/connect"

	"github.com/writmesh/writ/coordinator/coordtest"
	"github.com/writmesh/writ/coordinator/wire"
)

// A node whose record is refused for a newer one is shown that one.
func TestRefusedRecordComesWithTheOneHeld(t *testing.T) {
	w := world(t)
	c := coordtest.Start(t, w)
	c.Publish(w.Publish(accounting("alice@acme.example")))
	n := w.Admit("alice", "alice@acme.example")
	c.Admit(n)
	old := n.Papers.Record
	w.SignRecord(n, []string{"relay-1"})
	c.PutRecord(n)
	put := func(doc []byte) error {
		_, err := c.Agent(n.Key).PutRecord(context.Background(), connect.NewRequest(&wire.PutRecordRequest{Record: doc}))
		return err
	}
	var refusal *connect.Error
	if err := put(old); !errors.As(err, &refusal) || refusal.Code() != connect.CodeInvalidArgument {
		t.Fatalf("the record before: got %v, want invalid_argument", err)
	}
	if len(refusal.Details()) != 1 {
		t.Fatalf("got %d details, want the record held", len(refusal.Details()))
	}
	m, err := refusal.Details()[0].Value()
	if err != nil {
		t.Fatal(err)
	}
	if shown, ok := m.(*wire.PutRecordRequest); !ok || !bytes.Equal(shown.GetRecord(), n.Papers.Record) {
		t.Errorf("got %v, want the record held", m)
	}
	// What does not verify is refused without it.
	if err := put([]byte("no record")); !errors.As(err, &refusal) || len(refusal.Details()) != 0 {
		t.Errorf("no record: got %v with %d details, want an error without any", err, len(refusal.Details()))
	}
}
