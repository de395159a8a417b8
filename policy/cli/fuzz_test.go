package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
	"github.com/writmesh/writ/policy/cli/output"
)

// FuzzInventory: whatever is accepted is written and read again as the same.
func FuzzInventory(f *testing.F) {
	for _, s := range []string{
		`{"nodes": [{"name": "ledger-1", "tags": ["accounting"]}, {"name": "bob", "user": "bob@acme.example"}]}`,
		`{"nodes": []}`, `{}`, `null`, `{"nodes": [{"name": "a", "user": "b@c", "tags": ["d"]}]}`, `{"nodes": [{"name": "A"}]}`, `{} {}`, `{"node": []}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := parseInventory(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(inv)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseInventory(text)
		if err != nil {
			t.Fatalf("read again: %v", err)
		}
		if second, _ := json.Marshal(again); !bytes.Equal(text, second) {
			t.Errorf("read again: got %s, want %s", second, text)
		}
	})
}

// FuzzDescribeKey: no text makes it panic, and no private text is in what it
// says.
func FuzzDescribeKey(f *testing.F) {
	k, err := trust.NewSigningKey("policy-1")
	if err != nil {
		f.Fatal(err)
	}
	enrol := papers.EnrolSecret{Entry: "e", Tags: []string{"t"}, Key: key.NewEnrol()}
	for _, s := range []string{
		k.Secret(), k.Public().String(), key.NewSeal().Secret(), key.NewSeal().Public().String(), key.NewIdentity().Secret(),
		key.NewIdentity().Public().String(), enrol.Secret(), enrol.Key.Public().String(), "", "a+b+c", "PRIVATE+KEY+a+b+c", "sealkey:", " enrolkey:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		what, public, err := describeKey(s)
		if err != nil {
			if looksPrivate(s) && len(s) > 20 && strings.Contains(err.Error(), s) {
				t.Errorf("the error repeats the text: %v", err)
			}
			return
		}
		for _, mark := range []string{"PRIVATE+KEY", "sealkey:", "idkey:", "enrolkey:"} {
			if strings.Contains(what, mark) || strings.Contains(public, mark) {
				t.Errorf("%s, %s: shows a private key", what, public)
			}
		}
	})
}

// FuzzVerify: no document makes it panic, none but a root document verifies
// without one, and each line printed is free of control characters.
func FuzzVerify(f *testing.F) {
	rootKey, err := trust.NewSigningKey("root-1")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{"writ/root/v1\n", "writ/manifest/v1\n", "writ/ended/v1\n", "writ/admission/v1\n", "writ/record/v1\nnode nid:x\n", "writ/ack/v1\n", "else\x1b[2J\n"} {
		msg, err := trust.Sign(text, rootKey)
		if err == nil {
			f.Add(msg)
		}
	}
	f.Add([]byte("no note"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var out bytes.Buffer
		v := &verifier{env: &env{text: output.NewText(&out)}}
		err := v.document("file", msg)
		if err == nil && !v.failed && v.newest == nil {
			t.Errorf("verifies without a root document:\n%s", out.String())
		}
		for line := range strings.Lines(out.String()) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("control character in %q", line)
			}
		}
	})
}
