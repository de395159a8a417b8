package key

import (
	"bytes"
	encodings "encoding"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew")

// A form is one type of the package by its text.
type form struct {
	prefix string
	parse  func(string) (string, error) // and print again
	bytes  func(string) [size]byte
}

func formOf[T any](prefix string, parse func(string) (T, error), text func(T) string, raw func(T) [size]byte) form {
	return form{
		prefix: prefix,
		parse:  func(s string) (string, error) { v, err := parse(s); return text(v), err },
		bytes:  func(s string) [size]byte { v, _ := parse(s); return raw(v) },
	}
}

// forms are every type with 32 bytes and a base32 text.
var forms = []form{
	formOf("net:", ParseNetworkID, NetworkID.String, func(n NetworkID) [size]byte { return n }),
	formOf("nid:", ParseNodeID, NodeID.String, func(n NodeID) [size]byte { return n }),
	formOf("idpub:", ParseIdentityPublic, IdentityPublic.String, func(k IdentityPublic) [size]byte { return k.b }),
	formOf("idkey:", ParseIdentityPrivate, IdentityPrivate.Secret, func(k IdentityPrivate) [size]byte { return *k.seed.bytes() }),
	formOf("wgpub:", ParseWGPublic, WGPublic.String, func(k WGPublic) [size]byte { return k.b }),
	formOf("wgkey:", ParseWGPrivate, WGPrivate.Secret, func(k WGPrivate) [size]byte { return *k.b.bytes() }),
	formOf("enrol:", ParseEnrolPublic, EnrolPublic.String, func(k EnrolPublic) [size]byte { return k.b }),
	formOf("enrolkey:", ParseEnrolPrivate, EnrolPrivate.Secret, func(k EnrolPrivate) [size]byte { return *k.seed.bytes() }),
	formOf("sealpub:", ParseSealPublic, SealPublic.String, func(k SealPublic) [size]byte { return k.b }),
	formOf("sealkey:", ParseSealPrivate, SealPrivate.Secret, func(k SealPrivate) [size]byte { return *k.b.bytes() }),
}

// seq is 32 bytes that count up from first.
func seq(first byte) (b [size]byte) {
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// naive32 is base32 by RFC 4648 section 6, a bit at a time.
func naive32(b [size]byte) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var out strings.Builder
	for bit := 0; bit < 8*size; bit += 5 {
		v := 0
		for i := range 5 {
			v <<= 1
			if at := bit + i; at < 8*size {
				v |= int(b[at/8]>>(7-at%8)) & 1
			}
		}
		out.WriteByte(alphabet[v])
	}
	return out.String()
}

func TestTextRoundTrip(t *testing.T) {
	for _, f := range forms {
		for _, b := range [][size]byte{seq(0), seq(1), seq(200), {31: 1}, {0: 0x80, 31: 0xff}} {
			if checkPoint(b) != nil {
				b[15] = 0xaa
			}
			want := f.prefix + naive32(b)
			got, err := f.parse(want)
			if err != nil || got != want {
				t.Errorf("parse %s: got %q, %v", want, got, err)
			}
			if f.bytes(want) != b {
				t.Errorf("parse %s: got bytes %x, want %x", want, f.bytes(want), b)
			}
		}
	}
}

// Every text that is not what its type writes is refused, by the layer named.
func TestTextDefects(t *testing.T) {
	for _, f := range forms {
		good := f.prefix + naive32(seq(1))
		rest := strings.TrimPrefix(good, f.prefix)
		other := "net:"
		if f.prefix == other {
			other = "nid:"
		}
		const begins, chars, b32 = "does not begin with", "characters after", "not lower-case base32"
		for name, c := range map[string]struct{ text, want string }{
			"empty":               {"", begins},
			"prefix alone":        {f.prefix, chars},
			"no prefix":           {rest, begins},
			"another role":        {other + rest, begins},
			"upper-case prefix":   {strings.ToUpper(f.prefix) + rest, begins},
			"upper case":          {f.prefix + strings.ToUpper(rest), b32},
			"one upper case":      {f.prefix + strings.ToUpper(rest[:1]) + rest[1:], b32},
			"short":               {good[:len(good)-1], chars},
			"long":                {good + "a", chars},
			"padded":              {good + "====", chars},
			"space before":        {" " + good, begins},
			"space after prefix":  {f.prefix + " " + rest, chars},
			"newline at the end":  {good + "\n", chars},
			"newline inside":      {f.prefix + "\n" + rest[1:], b32},
			"carriage return":     {f.prefix + rest[:51] + "\r", b32},
			"digit 1":             {f.prefix + "1" + rest[1:], b32},
			"digit 0":             {f.prefix + "0" + rest[1:], b32},
			"NUL":                 {f.prefix + "\x00" + rest[1:], b32},
			"not ASCII":           {f.prefix + "é" + rest[2:], b32},
			"stray bits":          {f.prefix + rest[:51] + "b", b32},
			"stray top bit":       {f.prefix + rest[:51] + string("abcdefghijklmnopqrstuvwxyz234567"[strings.IndexByte("abcdefghijklmnopqrstuvwxyz234567", rest[51])|8]), b32},
			"hexadecimal instead": {f.prefix + hex.EncodeToString(bytes.Repeat([]byte{1}, 26)), b32},
		} {
			got, err := f.parse(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s%s: parse %q: got %q, error %v, want error %q", f.prefix, name, c.text, got, err, c.want)
			}
			if strings.HasSuffix(f.prefix, "key:") && err != nil && strings.Contains(err.Error(), rest[:20]) {
				t.Errorf("%s%s: the error shows the secret: %v", f.prefix, name, err)
			}
		}
	}
}

// All 32 characters at the end of a text: the two whose low four bits are zero
// are texts, the others have stray bits.
func TestTextLastCharacter(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	for _, f := range forms {
		rest := naive32(seq(1))
		accepted := 0
		for i := range alphabet {
			if _, err := f.parse(f.prefix + rest[:51] + alphabet[i:i+1]); err == nil {
				accepted++
				if i&15 != 0 {
					t.Errorf("%s last character %q accepted", f.prefix, alphabet[i])
				}
			}
		}
		if accepted != 2 {
			t.Errorf("%s %d last characters accepted, want 2", f.prefix, accepted)
		}
	}
}

func TestHashText(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // FIPS 180
	if got := HashOf(nil).String(); got != empty {
		t.Errorf("hash of nothing: got %s, want %s", got, empty)
	}
	if h, err := ParseHash(empty); err != nil || h != HashOf(nil) {
		t.Errorf("parse %s: got %s, %v", empty, h, err)
	}
	hexa := strings.TrimPrefix(empty, "sha256:")
	for name, s := range map[string]string{
		"empty":         "",
		"no prefix":     hexa,
		"prefix alone":  "sha256:",
		"other prefix":  "sha512:" + hexa,
		"upper prefix":  "SHA256:" + hexa,
		"short":         empty[:len(empty)-1],
		"two short":     empty[:len(empty)-2],
		"long":          empty + "00",
		"upper case":    "sha256:" + strings.ToUpper(hexa),
		"not hex":       "sha256:g" + hexa[1:],
		"space":         "sha256: " + hexa[1:],
		"newline":       empty + "\n",
		"double prefix": "sha256:" + empty,
	} {
		if h, err := ParseHash(s); err == nil || err.Error() != `hash: want "sha256:" and 64 lower-case hexadecimal digits` {
			t.Errorf("%s: parse %q: got %s, %v", name, s, h, err)
		}
	}
}

func TestZeroWireGuardKeyRefused(t *testing.T) {
	zero := "wgpub:" + naive32([size]byte{})
	if _, err := ParseWGPublic(zero); err == nil || err.Error() != "WireGuard key: all zero" {
		t.Errorf("parse %s: got %v, want all zero", zero, err)
	}
}

// The texts in testdata are what other implementations must write: a change of
// them is a change of the format.
func TestVectors(t *testing.T) {
	var b strings.Builder
	id, _ := ParseIdentityPrivate("idkey:" + naive32(seq(1)))
	wg, _ := ParseWGPrivate("wgkey:" + naive32(seq(2)))
	enrol, _ := ParseEnrolPrivate("enrolkey:" + naive32(seq(3)))
	seal, _ := ParseSealPrivate("sealkey:" + naive32(seq(4)))
	for _, row := range []struct {
		what string
		raw  [size]byte
		text string
	}{
		{"NetworkID", seq(0), NetworkID(seq(0)).String()},
		{"IdentityPrivate", seq(1), id.Secret()},
		{"IdentityPublic", id.Public().b, id.Public().String()},
		{"NodeID", id.Public().NodeID(), id.Public().NodeID().String()},
		{"WGPrivate", seq(2), wg.Secret()},
		{"WGPublic", wg.Public().b, wg.Public().String()},
		{"EnrolPrivate", seq(3), enrol.Secret()},
		{"EnrolPublic", enrol.Public().b, enrol.Public().String()},
		{"SealPrivate", seq(4), seal.Secret()},
		{"SealPublic", seal.Public().b, seal.Public().String()},
		{"Hash", HashOf([]byte("writ")), HashOf([]byte("writ")).String()},
	} {
		fmt.Fprintf(&b, "%-15s %x %s\n", row.what, row.raw, row.text)
	}
	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	for line := range strings.Lines(string(want)) {
		f := strings.Fields(line)
		raw, err := hex.DecodeString(f[1])
		if err != nil {
			t.Fatal(err)
		}
		if prefix, rest, _ := strings.Cut(f[2], ":"); prefix != "sha256" && rest != naive32([size]byte(raw)) {
			t.Errorf("%s: text %s is not of the bytes %s", f[0], f[2], f[1])
		}
	}
}

// Text marshalling is the same text, so that JSON documents hold it.
func TestMarshalText(t *testing.T) {
	id := NewIdentity()
	for _, c := range []struct {
		in  encodings.TextMarshaler
		out encodings.TextUnmarshaler
	}{
		{NetworkID(seq(9)), new(NetworkID)},
		{id.Public().NodeID(), new(NodeID)},
		{id.Public(), new(IdentityPublic)},
		{NewWG().Public(), new(WGPublic)},
		{NewEnrol().Public(), new(EnrolPublic)},
		{NewSeal().Public(), new(SealPublic)},
		{HashOf(nil), new(Hash)},
	} {
		b, err := json.Marshal(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%q", fmt.Sprint(c.in)); string(b) != want {
			t.Errorf("%T: got %s, want %s", c.in, b, want)
		}
		if err := json.Unmarshal(b, c.out); err != nil {
			t.Errorf("%T: %v", c.in, err)
		}
		if got, _ := json.Marshal(c.out); !bytes.Equal(got, b) {
			t.Errorf("%T: got %s again, want %s", c.in, got, b)
		}
		if err := json.Unmarshal([]byte(`"nonsense"`), c.out); err == nil {
			t.Errorf("%T: nonsense accepted", c.out)
		}
	}
}

// What could not be read is not written.
func TestMarshalZeroKey(t *testing.T) {
	if b, err := json.Marshal(IdentityPublic{}); err == nil {
		t.Errorf("the zero identity key is written as %s", b)
	}
	if b, err := json.Marshal(EnrolPublic{}); err == nil {
		t.Errorf("the zero enrolment key is written as %s", b)
	}
}

// A holder keeps a private key where fmt cannot reach its methods.
type holder struct{ k any }
type identityHolder struct{ k IdentityPrivate }
type wgHolder struct{ k WGPrivate }
type enrolHolder struct{ k EnrolPrivate }
type sealHolder struct{ k SealPrivate }

func TestPrivateKeysAreNeverPrinted(t *testing.T) {
	raw := seq(0xa1)
	text := naive32(raw)
	id, _ := ParseIdentityPrivate("idkey:" + text)
	wg, _ := ParseWGPrivate("wgkey:" + text)
	enrol, _ := ParseEnrolPrivate("enrolkey:" + text)
	seal, _ := ParseSealPrivate("sealkey:" + text)
	// The secret as any printer would write it: text, hexadecimal, decimal, octal,
	// binary, quoted and raw, from the second byte on as lists are.
	tells := []string{
		text[:16], string(raw[:8]), hex.EncodeToString(raw[:6]), strings.ToUpper(hex.EncodeToString(raw[:6])),
		"161 162 163", "161,162,163", "0xa1, 0xa2", "0xa1 0xa2", "241 242 243", "10100001 10100010", `\xa1\xa2`, "a1 a2 a3", "A1 A2 A3",
		"oaKjpKWmp6ip", // base64
	}
	leaks := func(s string) string {
		for _, tell := range tells {
			if strings.Contains(s, tell) {
				return tell
			}
		}
		return ""
	}
	if leaks(fmt.Sprintf("%v", struct{ b [size]byte }{raw})) == "" || leaks(fmt.Sprintf("%x", raw)) == "" {
		t.Fatal("this test cannot tell a leak")
	}
	for _, c := range []struct {
		key  any
		in   any
		mark string
	}{
		{id, identityHolder{id}, "idkey:(secret)"},
		{wg, wgHolder{wg}, "wgkey:(secret)"},
		{enrol, enrolHolder{enrol}, "enrolkey:(secret)"},
		{seal, sealHolder{seal}, "sealkey:(secret)"},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%T", "%20v", "%-8.3s", "%p"} {
			direct := fmt.Sprintf(verb, c.key)
			if tell := leaks(direct); tell != "" {
				t.Errorf("%T printed with %s shows %q: %s", c.key, verb, tell, direct)
			}
			if verb != "%T" && verb != "%p" && direct != c.mark {
				t.Errorf("%T printed with %s: got %q, want %q", c.key, verb, direct, c.mark)
			}
			for _, v := range []any{&c.key, c.in, []any{c.in}, map[string]any{"k": c.in}, holder{c.key}, holder{c.in}, &holder{c.in}} {
				s := fmt.Sprintf(verb, v)
				if tell := leaks(s); tell != "" {
					t.Fatalf("%T printed with %s shows %q: %s", v, verb, tell, s)
				}
			}
		}
		j, err := json.Marshal(map[string]any{"k": c.key, "in": c.in})
		if err != nil || leaks(string(j)) != "" {
			t.Errorf("%T as JSON: %s, %v", c.key, j, err)
		}
		if c.key.(interface{ GoString() string }).GoString() != c.mark || fmt.Sprint(c.key) != c.mark {
			t.Errorf("%T: GoString or String is not %q", c.key, c.mark)
		}
		var out bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("key", "key", c.key, "in", c.in, slog.Group("g", "key", c.key))
		}
		if tell := leaks(out.String()); tell != "" {
			t.Errorf("%T logged shows %q: %s", c.key, tell, out.String())
		}
	}
}

func TestZeroPrivateKeys(t *testing.T) {
	zero, err := ParseIdentityPrivate("idkey:" + naive32([size]byte{}))
	if err != nil || !zero.Equal(IdentityPrivate{}) || !zero.Public().Equal(IdentityPrivate{}.Public()) {
		t.Errorf("the zero identity key is not 32 zero bytes: %v", err)
	}
	if (WGPrivate{}).Secret() != "wgkey:"+naive32([size]byte{}) || (WGPrivate{}).Public().IsZero() {
		t.Error("the zero WireGuard key is not 32 zero bytes")
	}
	if (EnrolPrivate{}).Secret() != "enrolkey:"+naive32([size]byte{}) || (SealPrivate{}).Secret() != "sealkey:"+naive32([size]byte{}) {
		t.Error("a zero private key is not 32 zero bytes")
	}
}

func TestKeysDiffer(t *testing.T) {
	a, b := NewIdentity(), NewIdentity()
	if a.Equal(b) || a.Public().Equal(b.Public()) || a.Public().NodeID() == b.Public().NodeID() {
		t.Error("two new identity keys are one")
	}
	if !a.Equal(a) || NewWG().Equal(NewWG()) || NewWG().Public().Equal(NewWG().Public()) {
		t.Error("Equal is not equality")
	}
	if NewEnrol().Public().Equal(NewEnrol().Public()) || NewSeal().Public().Equal(NewSeal().Public()) {
		t.Error("two new keys are one")
	}
	if !IdentityPrivateFromSeed(*a.seed.bytes()).Equal(a) {
		t.Error("a key of the same seed is another key")
	}
}

func TestShort(t *testing.T) {
	n := NewIdentity().Public().NodeID()
	if got, want := n.Short(), n.String()[:12]; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := HashOf(nil).Short(); got != "e3b0c442" {
		t.Errorf("got %s, want e3b0c442", got)
	}
	if !(NodeID{}).IsZero() || n.IsZero() || !(NetworkID{}).IsZero() || !(Hash{}).IsZero() || !(IdentityPublic{}).IsZero() || !(WGPublic{}).IsZero() {
		t.Error("IsZero is not zero")
	}
}

func FuzzParse(f *testing.F) {
	for _, fm := range forms {
		f.Add(fm.prefix + naive32(seq(1)))
		f.Add(fm.prefix + naive32([size]byte{}))
		f.Add(fm.prefix + strings.Repeat("7", 52))
		f.Add(fm.prefix + "\n")
	}
	f.Add(HashOf(nil).String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		read := 0
		for _, fm := range forms {
			if got, err := fm.parse(s); err == nil {
				read++
				if got != s {
					t.Errorf("parse %q: prints %q", s, got)
				}
			}
		}
		if h, err := ParseHash(s); err == nil {
			read++
			if h.String() != s {
				t.Errorf("parse %q: prints %q", s, h)
			}
		}
		if read > 1 {
			t.Errorf("%q is read by %d types", s, read)
		}
	})
}
