package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
)

// Every single-bit flip of a valid note is refused, and every cut.
func TestBitFlips(t *testing.T) {
	for _, v := range vectors() {
		if strings.Contains(v.file, "-") && !strings.HasPrefix(v.file, "root") {
			continue // another signer of a text that is here already
		}
		t.Run(v.file, func(t *testing.T) {
			t.Parallel()
			for bit := range 8 * len(v.msg) {
				bad := bytes.Clone(v.msg)
				bad[bit/8] ^= 1 << (bit % 8)
				if _, err := v.open(bad); err == nil {
					t.Errorf("bit %d of byte %d (%q) flipped: accepted", bit%8, bit/8, v.msg[bit/8])
				}
			}
			for n := range v.msg {
				if _, err := v.open(v.msg[:n]); err == nil {
					t.Errorf("cut to %d bytes: accepted", n)
				}
			}
		})
	}
}

// No document is accepted where another type is expected.
func TestTypesAreNotConfused(t *testing.T) {
	for _, v := range vectors() {
		for _, w := range vectors() {
			kind := func(file string) string { k, _, _ := strings.Cut(file, "-"); return k }
			if kind(v.file) != kind(w.file) || kind(v.file) == "root" && v.file != w.file {
				if _, err := w.open(v.msg); err == nil {
					t.Errorf("%s opened as %s", v.file, w.file)
				}
			}
		}
	}
}

func TestOpenThreshold(t *testing.T) {
	const text = "writ/test/v1\nkey value\n"
	twice := named("other-name", 1) // r1's public key
	sameName := named("root-1", 77) // r1's name, another key
	for name, c := range map[string]struct {
		signers   []SigningKey
		keys      []VKey
		threshold int
		want      string
	}{
		"1 of 1":                            {[]SigningKey{r1}, vkeys(r1), 1, ""},
		"2 of 3":                            {[]SigningKey{r3, r1}, vkeys(r1, r2, r3), 2, ""},
		"3 of 3":                            {[]SigningKey{r1, r2, r3}, vkeys(r1, r2, r3), 3, ""},
		"1 of 3 where 2 are needed":         {[]SigningKey{r2}, vkeys(r1, r2, r3), 2, "1 of 2 needed keys signed: not signed to threshold"},
		"2 of 3 where 3 are needed":         {[]SigningKey{r2, r1}, vkeys(r1, r2, r3), 3, "2 of 3 needed keys signed: not signed to threshold"},
		"strangers do not count":            {[]SigningKey{r1, x1, a1, a2}, vkeys(r1, r2, r3), 2, "1 of 2 needed keys signed: not signed to threshold"},
		"only strangers":                    {[]SigningKey{x1, a1}, vkeys(r1, r2), 1, "none of the 2 keys in force signed: not signed to threshold"},
		"strangers do no harm":              {[]SigningKey{x1, r1, a1}, vkeys(r1), 1, ""},
		"one key under two names":           {[]SigningKey{r1, twice}, vkeys(r1, twice), 2, "1 of 2 needed keys signed: not signed to threshold"},
		"one key under two names and one":   {[]SigningKey{r1, twice, r2}, vkeys(r1, twice, r2), 2, ""},
		"two keys of one name":              {[]SigningKey{r1, sameName}, vkeys(r1, sameName), 2, ""},
		"the name of a key in force":        {[]SigningKey{sameName}, vkeys(r1), 1, "none of the 1 keys in force signed: not signed to threshold"},
		"a known key under an unknown name": {[]SigningKey{twice}, vkeys(r1), 1, "none of the 1 keys in force signed: not signed to threshold"},
		"threshold 0":                       {[]SigningKey{r1}, vkeys(r1), 0, "threshold 0 of 1 keys: not signed to threshold"},
		"threshold -1":                      {[]SigningKey{r1}, vkeys(r1), -1, "threshold -1 of 1 keys: not signed to threshold"},
		"threshold above keys":              {[]SigningKey{r1}, vkeys(r1), 2, "threshold 2 of 1 keys: not signed to threshold"},
		"no keys":                           {[]SigningKey{r1}, nil, 0, "threshold 0 of 0 keys: not signed to threshold"},
		"a key given twice":                 {[]SigningKey{r1}, vkeys(r1, r1), 1, "note: ambiguous key root-1+fc09beeb"},
	} {
		got, err := Open(signed(text, c.signers...), 1000, c.keys, c.threshold)
		switch {
		case c.want == "" && (err != nil || got != text):
			t.Errorf("%s: got %q, %v", name, got, err)
		case c.want != "" && (err == nil || err.Error() != c.want || got != ""):
			t.Errorf("%s: got %q, %v, want %s", name, got, err, c.want)
		case strings.HasSuffix(c.want, ErrUnsigned.Error()) != errors.Is(err, ErrUnsigned):
			t.Errorf("%s: %v is ErrUnsigned: %v", name, err, errors.Is(err, ErrUnsigned))
		}
	}
}

// The same signer's line several times counts once, wherever it stands.
func TestOneSignerThrice(t *testing.T) {
	const text = "writ/test/v1\n"
	line := string(signed(text, r1)[len(text)+1:])
	other := string(signed(text, r2)[len(text)+1:])
	for _, c := range []struct {
		sigs string
		n    int
	}{{line + line + line, 1}, {line + other + line, 2}, {other + line + line, 2}} {
		for threshold := 1; threshold <= 3; threshold++ {
			_, err := Open([]byte(text+"\n"+c.sigs), 1000, vkeys(r1, r2, r3), threshold)
			if (err == nil) != (threshold <= c.n) {
				t.Errorf("%d distinct signers, threshold %d: got %v", c.n, threshold, err)
			}
		}
	}
}

// A wrong signature of a key in force is no missing signature: the note is not
// what was signed, and other keys do not mend it.
func TestWrongSignatureRefusesTheNote(t *testing.T) {
	const text = "writ/test/v1\n"
	foreign := string(signed("writ/other/v1\n", r2)[len("writ/other/v1\n")+1:])
	msg := append(signed(text, r1), foreign...)
	if _, err := Open(msg, 1000, vkeys(r1, r2), 1); err == nil || err.Error() != "note: invalid signature for key root-2+c483fc94" {
		t.Errorf("got %v", err)
	}
	if _, err := Open(msg, 1000, vkeys(r1), 1); err != nil {
		t.Errorf("signature of a key not in force: got %v", err)
	}
}

func TestSizes(t *testing.T) {
	root := firstRoot()
	pad := func(n int) []byte { return bytes.Repeat([]byte("a"), n) }
	for name, c := range map[string]struct {
		limit int
		open  func([]byte) error
		want  string
	}{
		"first root": {MaxRoot, func(b []byte) error { _, err := OpenFirstRoot(b, root.Network); return err }, "root document of %d bytes: at most 65536"},
		"next root":  {MaxRoot, func(b []byte) error { _, err := OpenNextRoot(b, root); return err }, "root document of %d bytes: at most 65536"},
		"manifest":   {MaxManifest, func(b []byte) error { _, err := OpenManifest(b, root); return err }, "manifest: note of %d bytes: at most 16384"},
		"ended list": {MaxEnded, func(b []byte) error { _, err := OpenEnded(b, root); return err }, "ended list: note of %d bytes: at most 921600"},
		"text":       {maxNote, func(b []byte) error { _, err := Text(b); return err }, "note of %d bytes: at most 921600"},
		"limit":      {maxNote, func(b []byte) error { _, err := Open(b, 1<<40, vkeys(r1), 1); return err }, "note of %d bytes: at most 921600"},
		"from":       {100, func(b []byte) error { _, err := OpenFrom(b, 100, r1.Public().Identity()); return err }, "note of %d bytes: at most 100"},
		"add":        {maxNote, func(b []byte) error { _, err := AddSignature(b, r1); return err }, "add signature: note of %d bytes: at most 921600"},
	} {
		if err, want := c.open(pad(c.limit+1)), fmt.Sprintf(c.want, c.limit+1); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
		if err := c.open(pad(c.limit)); err == nil || strings.Contains(err.Error(), "bytes: at most") {
			t.Errorf("%s at its limit: got %v", name, err)
		}
	}
	// A note of exactly the limit is read.
	const text = "writ/test/v1\n"
	msg := signed(text, r1)
	if _, err := Open(msg, len(msg), vkeys(r1), 1); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := Open(msg, len(msg)-1, vkeys(r1), 1); err == nil {
		t.Error("a byte above the limit: accepted")
	}
}

func TestAddSignature(t *testing.T) {
	text := exampleManifest().Text()
	one := signed(text, p1)
	both, err := AddSignature(one, p2)
	if err != nil || !bytes.Equal(both, signed(text, p1, p2)) {
		t.Errorf("got\n%s\n%v\nwant\n%s", both, err, signed(text, p1, p2))
	}
	again, err := AddSignature(both, p2)
	if err != nil || !bytes.Equal(again, both) {
		t.Errorf("the same signature again: got\n%s\n%v", again, err)
	}
	if _, err := AddSignature([]byte(text), p1); err == nil || err.Error() != "add signature: note: malformed note" {
		t.Errorf("a text that is no note: got %v", err)
	}
}

func TestText(t *testing.T) {
	for _, v := range vectors() {
		want, _, _ := strings.Cut(string(v.msg), "\n\n")
		if got, err := Text(v.msg); err != nil || got != want+"\n" {
			t.Errorf("%s: got %q, %v", v.file, got, err)
		}
	}
	for _, bad := range []string{"", "\n", "\n\n", "text\n", "text\n\n", "text\n\nno signature\n", "a\n\n— x y\n"} {
		if got, err := Text([]byte(bad)); err == nil || got != "" {
			t.Errorf("%q: got %q, %v", bad, got, err)
		}
	}
}

func TestOpenFrom(t *testing.T) {
	id, other := key.IdentityPrivateFromSeed([32]byte{1}), key.IdentityPrivateFromSeed([32]byte{2})
	const text = "writ/test/v1\nkey value\n"
	msg, err := SignAs(text, id)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/identity.txt", string(msg))
	if got, err := OpenFrom(msg, 1000, id.Public()); err != nil || got != text {
		t.Errorf("got %q, %v", got, err)
	}
	want := "not by " + other.Public().NodeID().Short() + ": not signed to threshold"
	if got, err := OpenFrom(msg, 1000, other.Public()); err == nil || err.Error() != want || !errors.Is(err, ErrUnsigned) || got != "" {
		t.Errorf("another node: got %q, %v, want %s", got, err, want)
	}
	for bit := range 8 * len(msg) {
		bad := bytes.Clone(msg)
		bad[bit/8] ^= 1 << (bit % 8)
		if got, err := OpenFrom(bad, 1000, id.Public()); err == nil {
			t.Errorf("bit %d of byte %d flipped: got %q", bit%8, bit/8, got)
		}
	}
	// The signer's name is a claim; the key is what verifies.
	forged := bytes.ReplaceAll(must(SignAs(text, other)), []byte(other.Public().NodeID().String()), []byte(id.Public().NodeID().String()))
	if got, err := OpenFrom(forged, 1000, id.Public()); err == nil {
		t.Errorf("signed by another under this name: got %q", got)
	}
	// C2SP signed-note: a verifier key made of the node id and the public key.
	vkey := must(ParseVKey(fmt.Sprintf("%s+%08x+%s", id.Public().NodeID(), newIdentityNote(id.Public()).KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, id.Public().Ed25519()...)))))
	if got, err := Open(msg, 1000, []VKey{vkey}, 1); err != nil || got != text {
		t.Errorf("as any signed note: got %q, %v", got, err)
	}
}

func TestVKey(t *testing.T) {
	k := p1.Public()
	parsed, err := ParseVKey(k.String())
	if err != nil || !parsed.Equal(k) || parsed.Name() != "policy-1" || parsed.String() != k.String() {
		t.Errorf("got %v, %v", parsed, err)
	}
	if k.Equal(p2.Public()) || !k.Equal(named("another-name", 11).Public()) {
		t.Error("Equal is not equality of public keys")
	}
	id, err := p1.TLSIdentity()
	if err != nil || !id.Public().Equal(k.Identity()) {
		t.Errorf("TLS identity: got %s, %v, want %s", id.Public(), err, k.Identity())
	}
	for name, s := range map[string]string{
		"empty":           "",
		"two parts":       "policy-1+0eb47657",
		"newline at end":  k.String() + "\n",
		"newline inside":  k.String()[:40] + "\n" + k.String()[40:],
		"space in name":   "policy 1" + k.String()[8:],
		"upper-case hash": upperHash(k.String()),
		"private key":     p1.Secret(),
		"padded":          k.String() + "=",
		"four parts":      k.String() + "+x",
		"small order":     smallOrderKey("x"),
	} {
		if k, err := ParseVKey(s); err == nil {
			t.Errorf("%s: %q accepted as %v", name, s, k)
		}
	}
}

func TestNewSigningKey(t *testing.T) {
	k, err := NewSigningKey("policy")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseSigningKey(k.Secret()); err != nil || !again.Public().Equal(k.Public()) || again.Public().String() != k.Public().String() {
		t.Errorf("read again: %v, %v", again.Public(), err)
	}
	if _, err := Open(signed("x\n", k), 1000, vkeys(k), 1); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a b", "a+b", "a\nb"} {
		if k, err := NewSigningKey(bad); err == nil {
			t.Errorf("name %q: made %v", bad, k.Public())
		}
	}
	for _, bad := range []string{"", "PRIVATE+KEY", k.Public().String(), strings.Replace(k.Secret(), "PRIVATE", "private", 1), k.Secret()[:len(k.Secret())-8]} {
		_, err := ParseSigningKey(bad)
		if err == nil || err.Error() != "signing key: not a private key of a signed note" {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

type keyHolder struct{ k SigningKey }
type anyHolder struct{ k any }

func TestSigningKeysAreNeverPrinted(t *testing.T) {
	secret := p1.Secret()[strings.LastIndexByte(p1.Secret(), '+')+1:]
	seed := must(base64.StdEncoding.DecodeString(secret))[1:]
	tells := []string{secret[:12], fmt.Sprintf("%x", seed[:6]), fmt.Sprintf("%X", seed[:6]), string(seed[:6]), "11 11 11", "0xb, 0xb", fmt.Sprintf("%x", secret[:8]), fmt.Sprintf("%X", secret[:8])}
	leaks := func(s string) bool {
		for _, tell := range tells {
			if strings.Contains(s, tell) {
				return true
			}
		}
		return false
	}
	if !leaks(fmt.Sprint(struct{ s string }{secret})) {
		t.Fatal("this test cannot tell a leak")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%T", "%20v", "%p"} {
		if s := fmt.Sprintf(verb, p1); verb != "%T" && verb != "%p" && s != "PRIVATE+KEY+(secret)" {
			t.Errorf("%s: got %s", verb, s)
		}
		for _, v := range []any{p1, &p1, keyHolder{p1}, &keyHolder{p1}, anyHolder{p1}, anyHolder{keyHolder{p1}}, []SigningKey{p1}, map[string]any{"k": keyHolder{p1}}} {
			if s := fmt.Sprintf(verb, v); leaks(s) {
				t.Errorf("%T printed with %s: %s", v, verb, s)
			}
		}
	}
	j, err := json.Marshal(map[string]any{"k": p1})
	if err != nil || leaks(string(j)) {
		t.Errorf("as JSON: %s, %v", j, err)
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("key", "k", p1, "in", keyHolder{p1})
	}
	if leaks(out.String()) {
		t.Errorf("logged: %s", out.String())
	}
	if (SigningKey{}).Secret() != "" {
		t.Error("the zero key has a secret")
	}
}
