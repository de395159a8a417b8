package papers

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The reading of a text is one-to-one: what is read is written as it was.
func fuzzText(f *testing.F, parse func(string) (interface{ Text() string }, error), seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(strings.ReplaceAll(s, " ", "  "))
	}
	f.Add("")
	f.Add("\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parse(text)
		if err == nil && d.Text() != text {
			t.Errorf("%q is written again as %q", text, d.Text())
		}
	})
}

func FuzzParseAdmission(f *testing.F) {
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseAdmission(s) }, serverAdmission().Text(), userAdmission().Text())
}

func FuzzParseRecord(f *testing.F) {
	r := exampleRecord()
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseRecord(s) }, r.Text())
}

func FuzzParseJoin(f *testing.F) {
	j := exampleJoin()
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseJoin(s) }, j.Text())
}

func FuzzParseProof(f *testing.F) {
	p := exampleProof()
	pin := Proof{Network: network(), Identity: alice.Public(), Name: "alice-1", Kind: ProofPin}
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseProof(s) }, p.Text(), pin.Text())
}

// No bytes but those that were signed are papers.
func FuzzOpen(f *testing.F) {
	ours := map[string]bool{}
	for _, d := range documents() {
		f.Add(d.msg())
		ours[d.text] = true
	}
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		for name, d := range documents() {
			if text, err := d.open(msg); err == nil && !ours[text] {
				t.Errorf("%s: opened %q", name, text)
			}
		}
	})
}

// An acknowledgement is parsed after its signature only, and so the fuzzer signs
// what it makes.
func FuzzAck(f *testing.F) {
	a := exampleAck()
	f.Add(a.Text())
	f.Add(strings.Replace(a.Text(), "epoch 1", "epoch 01", 1))
	f.Fuzz(func(t *testing.T, text string) {
		if !strings.HasSuffix(text, "\n") {
			return
		}
		a, err := OpenAck(byLedger(text), network(), ledger.Public())
		if err == nil && a.Text() != text {
			t.Errorf("%q is written again as %q", text, a.Text())
		}
	})
}

func FuzzJoinString(f *testing.F) {
	f.Add(exampleJoinString().String(), []byte(nil))
	b, err := json.Marshal(exampleJoinString())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("", b)
	f.Add("writ1_00000000", []byte("{}"))
	f.Fuzz(func(t *testing.T, s string, inside []byte) {
		wrapped := fmt.Sprintf("writ1_%s%08x", base64.RawURLEncoding.EncodeToString(inside), crc32.ChecksumIEEE(inside))
		for _, s := range []string{s, wrapped} {
			j, err := ParseJoinString(s)
			if err != nil {
				continue
			}
			again, err := ParseJoinString(j.String())
			if d := cmp.Diff(j, again); err != nil || d != "" {
				t.Errorf("%q is read as %v, and that again as %v, %v", s, j, again, err)
			}
		}
	})
}
