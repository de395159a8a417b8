package papers

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"

	"crypto/sha256"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/leaf"
	"github.com/writmesh/writ/coordinator/trust"
)

func TestAdmissionRoundTrip(t *testing.T) {
	for _, a := range []*Admission{serverAdmission(), userAdmission()} {
		got, err := OpenAdmission(byAdmissionKeys(a.Text()), root())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a, got, cmp.AllowUnexported(Admission{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("opened is not what was signed (-want +got):\n%s", d)
		}
	}
}

func TestPrincipals(t *testing.T) {
	if got, want := fmt.Sprint(userAdmission().Principals()), "[alice@acme.example]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(serverAdmission().Principals()), "[tag:accounting tag:backup]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(serverAdmission().Addresses()), fmt.Sprintf("[100.64.0.3 %s]", Address6(network(), ledger.Public())); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What an identity provider says cannot add a line, or a word, to an admission.
func TestUserIsOneLine(t *testing.T) {
	for name, u := range map[string]acl.User{
		"a line in the subject": {Email: "a@b.example", Issuer: "i", Subject: "s\ntag admin"},
		"a line in the issuer":  {Email: "a@b.example", Issuer: "i s\ntag admin", Subject: "x"},
		"a word more":           {Email: "a@b.example", Issuer: "i", Subject: "s t"},
		"a word in the issuer":  {Email: "a@b.example", Issuer: "i j", Subject: "s"},
		"no subject":            {Email: "a@b.example", Issuer: "i"},
		"no issuer":             {Email: "a@b.example", Subject: "s"},
		"a tab":                 {Email: "a@b.example", Issuer: "i", Subject: "s\tt"},
		"no e-mail":             {Issuer: "i", Subject: "s"},
	} {
		a := *userAdmission()
		a.User = &u
		if got, err := NewAdmission(a); err == nil {
			t.Errorf("%s: accepted:\n%s", name, got.Text())
		}
	}
}

// Address6 from its definition, without the code's help.
func TestAddress6(t *testing.T) {
	n := network()
	for _, id := range []key.IdentityPublic{alice.Public(), ledger.Public()} {
		sum := sha256.Sum256(append(append([]byte("writ-address/v1\n"), n[:]...), id.Ed25519()...))
		want := fmt.Sprintf("fd%x%x", n[:5], sum[:10])
		if got := strings.ReplaceAll(Address6(n, id).StringExpanded(), ":", ""); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !Prefix6(n).Contains(Address6(n, id)) || Prefix6(n).Bits() != 48 {
			t.Errorf("%s is outside %s", Address6(n, id), Prefix6(n))
		}
	}
	if Address6(n, alice.Public()) == Address6(n, ledger.Public()) || Address6(n, alice.Public()) == Address6(key.NetworkID{}, alice.Public()) {
		t.Error("two nodes or networks have one address")
	}
}

func TestRecordRoundTrip(t *testing.T) {
	want := exampleRecord()
	want.Node = key.NodeID{} // filled in
	msg, signed, err := SignRecord(want, ledger)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenRecord(msg, network(), ledger.Public())
	if err != nil || got.Text() != signed.Text() || got.Hash() != signed.Hash() || got.Node != ledger.Public().NodeID() || got.Hash() != key.HashOf([]byte(got.Text())) {
		t.Errorf("got %v, %v", got, err)
	}
	many := want
	many.Relays = []string{"a", "b", "c", "d", "e"}
	if _, _, err := SignRecord(many, ledger); err == nil {
		t.Error("five home relays: signed")
	}
}

func TestAckRoundTrip(t *testing.T) {
	want := exampleAck()
	asked := want
	asked.Node = key.NodeID{}
	msg, err := SignAck(asked, ledger)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenAck(msg, network(), ledger.Public())
	if d := cmp.Diff(&want, got); err != nil || d != "" {
		t.Errorf("got %v (-want +got):\n%s", err, d)
	}
	if _, err := OpenAck(msg, network(), alice.Public()); err == nil {
		t.Error("opened as another node's")
	}
	if _, err := OpenAck(msg, key.NetworkID{1}, ledger.Public()); err == nil {
		t.Error("opened as another network's")
	}
}

// A node cannot speak for another, whatever it signs itself.
func TestNotByAnother(t *testing.T) {
	text := exampleRecord()
	if _, err := OpenRecord(must(trust.SignAs(text.Text(), alice)), network(), alice.Public()); err == nil || err.Error() != "record: about another node than its signer" {
		t.Errorf("record: got %v", err)
	}
	ack := exampleAck()
	if _, err := OpenAck(must(trust.SignAs(ack.Text(), alice)), network(), alice.Public()); err == nil || err.Error() != "acknowledgement: about another node than its signer" {
		t.Errorf("acknowledgement: got %v", err)
	}
	join := exampleJoin()
	if _, err := OpenJoin(must(trust.SignAs(join.Text(), alice)), network(), alice.Public()); err == nil || err.Error() != "join request: about another node than its signer" {
		t.Errorf("join request: got %v", err)
	}
}

func TestJoin(t *testing.T) {
	msg, err := NewJoin(network(), ledger, "ledger-1", noon, seal.Public(), Proof{
		Tags: exampleProof().Tags, Kind: ProofEnrolment, Entry: "ledger-fleet", Signature: exampleProof().Signature,
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := OpenJoin(msg, network(), ledger.Public())
	if err != nil {
		t.Fatal(err)
	}
	if j.Name != "ledger-1" || !j.Issued.Equal(noon) || j.Hash() != key.HashOf([]byte(j.Text())) {
		t.Errorf("got %+v", j)
	}
	p, err := j.Unseal(seal)
	want := exampleProof()
	if err != nil || p.Text() != want.Text() {
		t.Fatalf("got %v, %v, want %v", p, err, want)
	}
	if !enrol.Public().Verify(EnrolText(p.Network, p.Identity, p.Name, p.Tags), p.Signature) {
		t.Error("the enrolment key's signature does not verify")
	}
	for name, text := range map[string][]byte{
		"another network":  EnrolText(key.NetworkID{}, p.Identity, p.Name, p.Tags),
		"another identity": EnrolText(p.Network, alice.Public(), p.Name, p.Tags),
		"another name":     EnrolText(p.Network, p.Identity, "ledger-2", p.Tags),
		"a tag less":       EnrolText(p.Network, p.Identity, p.Name, p.Tags[:1]),
		"a tag more":       EnrolText(p.Network, p.Identity, p.Name, append(p.Tags, "x")),
		"no tags":          EnrolText(p.Network, p.Identity, p.Name, nil),
	} {
		if enrol.Public().Verify(text, p.Signature) {
			t.Errorf("%s: the enrolment key's signature verifies", name)
		}
	}
	if bytes.Contains(msg, p.Signature) || strings.Contains(string(msg), "ledger-fleet") {
		t.Error("the proof is readable in the request")
	}
}

func TestNewJoinRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		node  string
		proof Proof
	}{
		"no kind":             {"n", Proof{}},
		"a bad name":          {"N", Proof{Kind: ProofPin}},
		"a pin with an entry": {"n", Proof{Kind: ProofPin, Entry: "e"}},
		"no signature":        {"n", Proof{Kind: ProofEnrolment, Entry: "e"}},
		"no entry":            {"n", Proof{Kind: ProofEnrolment, Signature: []byte{1}}},
		"tags not sorted":     {"n", Proof{Kind: ProofEnrolment, Entry: "e", Signature: []byte{1}, Tags: []string{"b", "a"}}},
		"a proof too large":   {"n", Proof{Kind: ProofEnrolment, Entry: "e", Signature: make([]byte, 2*MaxJoin)}},
	} {
		msg, err := NewJoin(network(), ledger, c.node, noon, seal.Public(), c.proof)
		if err == nil {
			if _, err = OpenJoin(msg, network(), ledger.Public()); err == nil {
				t.Errorf("%s: made and opened", name)
			}
		}
	}
}

func TestParseProofRefuses(t *testing.T) {
	p := exampleProof()
	text := p.Text()
	sub := func(old, new string) string {
		if !strings.Contains(text, old) {
			panic(old)
		}
		return strings.Replace(text, old, new, 1)
	}
	sig := text[strings.Index(text, "signature "):]
	for name, c := range map[string]struct{ in, want string }{
		"empty":              {"", "join proof: no newline at the end"},
		"another type":       {sub("proof", "join"), "join proof: line 1: want type writ/proof/v1"},
		"no newline":         {strings.TrimSuffix(text, "\n"), "join proof: no newline at the end"},
		"a line more":        {text + "x y\n", `join proof: line 10: unknown or repeated line "x y"`},
		"unknown kind":       {sub("kind enrolment", "kind login"), `join proof: unknown kind "login"`},
		"no kind":            {sub("kind enrolment\n", ""), `join proof: line 7: want "kind"`},
		"pin with the rest":  {sub("kind enrolment", "kind pin"), "join proof: a pin has no entry and no signature"},
		"no entry":           {sub("entry ledger-fleet", "entry none"), "join proof: an enrolment needs an entry and a signature"},
		"no signature":       {sub(sig, "signature none\n"), "join proof: an enrolment needs an entry and a signature"},
		"tags not sorted":    {sub("tag accounting\ntag backup\n", "tag backup\ntag accounting\n"), "join proof: tags are not sorted, or one stands twice"},
		"a tag twice":        {sub("tag backup\n", "tag backup\ntag backup\n"), "join proof: tags are not sorted, or one stands twice"},
		"65 tags":            {sub("tag accounting\ntag backup\n", manyTags(65)), `join proof: line 69: more than 64 lines of "tag"`},
		"a tag's prefix":     {sub("tag backup", "tag tag:backup"), `join proof: line 6: tag: tag name "tag:backup": ':' is not allowed; use lower-case letters, digits, '-', '_', '.' and '/'`},
		"padded signature":   {sub("signature ", "signature AA=="), ""},
		"signature of spare": {sub(sig, "signature AAB\n"), ""},
		"a bad name":         {sub("name ledger-1", "name ledger.1"), `join proof: line 4: name: node name "ledger.1": '.' is not allowed; use lower-case letters, digits and '-'`},
	} {
		p, err := parseProof(c.in)
		if err == nil || c.want != "" && err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, p, err, c.want)
		}
	}
}

// A sealed proof opens with this network's key for this request alone.
func TestUnsealRefuses(t *testing.T) {
	sealed := func(info []byte, edit func(*Proof)) Join {
		p := exampleProof()
		edit(&p)
		j := exampleJoin()
		j.Proof = must(seal.Public().Seal(info, []byte(p.Text())))
		return j
	}
	ours := sealInfo(network())
	j := exampleJoin()
	for name, c := range map[string]struct {
		j    Join
		k    key.SealPrivate
		want string
	}{
		"the vector":               {j, seal, ""},
		"made now":                 {sealed(ours, func(*Proof) {}), seal, ""},
		"another sealing key":      {j, key.NewSeal(), "join proof: open sealed: "},
		"sealed for another net":   {sealed(sealInfo(key.NetworkID{1}), func(*Proof) {}), seal, "join proof: open sealed: "},
		"sealed for another use":   {sealed([]byte("writ/other/v1\n"+network().String()), func(*Proof) {}), seal, "join proof: open sealed: "},
		"of another network":       {sealed(ours, func(p *Proof) { p.Network = key.NetworkID{1} }), seal, "join proof: about another request"},
		"of another node":          {sealed(ours, func(p *Proof) { p.Identity = alice.Public() }), seal, "join proof: about another request"},
		"of another name":          {sealed(ours, func(p *Proof) { p.Name = "ledger-2" }), seal, "join proof: about another request"},
		"of no kind":               {sealed(ours, func(p *Proof) { p.Kind = "x" }), seal, `join proof: unknown kind "x"`},
		"request on other network": {Join{Network: key.NetworkID{1}, Identity: j.Identity, Name: j.Name, Proof: j.Proof}, seal, "join proof: open sealed: "},
		"request of other node":    {Join{Network: j.Network, Identity: alice.Public(), Name: j.Name, Proof: j.Proof}, seal, "join proof: about another request"},
		"request for other name":   {Join{Network: j.Network, Identity: j.Identity, Name: "alice-1", Proof: j.Proof}, seal, "join proof: about another request"},
	} {
		p, err := c.j.Unseal(c.k)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || p != nil) {
			t.Errorf("%s: got %v, %v, want %s", name, p, err, c.want)
		}
	}
	for bit := range 8 * len(j.Proof) {
		bad := j
		bad.Proof = bytes.Clone(j.Proof)
		bad.Proof[bit/8] ^= 1 << (bit % 8)
		if p, err := bad.Unseal(seal); err == nil {
			t.Errorf("bit %d flipped: got %v", bit, p)
		}
	}
}

func exampleJoinString() JoinString {
	return JoinString{
		Network:      network(),
		Coordinators: []leaf.Coordinator{{Addr: "coordinator.acme.example:443", Pin: r1Identity()}, {Addr: "[fd00::1]:443", Pin: alice.Public()}},
		Secret:       "/etc/writ/enrol.key",
	}
}

func TestJoinString(t *testing.T) {
	want := exampleJoinString()
	text := want.String()
	spaced := " \t" + text[:10] + " " + text[10:50] + "\r\n  " + text[50:] + "\n"
	for _, s := range []string{text, spaced, strings.Join(strings.Split(text, ""), "\n")} {
		got, err := ParseJoinString(s)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%q: %v (-want +got):\n%s", s, err, d)
		}
	}
}

// Every other character at every place is noticed, and every missing, doubled
// and swapped one.
func TestJoinStringDamage(t *testing.T) {
	text := exampleJoinString().String()
	refused := func(what, s string) {
		t.Helper()
		if s == text {
			return
		}
		if j, err := ParseJoinString(s); err == nil {
			t.Errorf("%s: accepted as %v", what, j)
		}
	}
	for i := range text {
		for c := range 256 {
			refused(fmt.Sprintf("character %d as %q", i, byte(c)), text[:i]+string([]byte{byte(c)})+text[i+1:])
		}
		refused(fmt.Sprintf("character %d missing", i), text[:i]+text[i+1:])
		refused(fmt.Sprintf("character %d twice", i), text[:i+1]+text[i:])
		refused(fmt.Sprintf("cut to %d", i), text[:i])
		if i > 0 {
			refused(fmt.Sprintf("%d and %d swapped", i-1, i), text[:i-1]+text[i:i+1]+text[i-1:i]+text[i+1:])
		}
	}
}

func TestParseJoinStringRefuses(t *testing.T) {
	wrap := func(json string) string {
		return fmt.Sprintf("writ1_%s%08x", base64.RawURLEncoding.EncodeToString([]byte(json)), crc32.ChecksumIEEE([]byte(json)))
	}
	net := `"network":"` + network().String() + `"`
	pin := `"pin":"` + alice.Public().String() + `"`
	coordinator := `{"addr":"c:443",` + pin + `}`
	const want = "join string: want a network and 1 to 16 coordinators"
	for name, c := range map[string]struct{ in, want string }{
		"empty":             {"", `join string: does not begin with "writ1_"`},
		"another version":   {strings.Replace(exampleJoinString().String(), "writ1", "writ2", 1), `join string: does not begin with "writ1_"`},
		"prefix alone":      {"writ1_", "join string: damaged: too short"},
		"seven digits":      {"writ1_0000000", "join string: damaged: too short"},
		"no JSON":           {wrap(""), "join string: EOF"},
		"upper-case sum":    {upperSum(exampleJoinString().String()), "join string: damaged: a character is missing or changed"},
		"unknown field":     {wrap(`{` + net + `,"coordinators":[` + coordinator + `],"trust":"me"}`), `join string: json: unknown field "trust"`},
		"data after":        {wrap(`{` + net + `,"coordinators":[` + coordinator + `]}{}`), "join string: data after the end"},
		"a brace after":     {wrap(`{` + net + `,"coordinators":[` + coordinator + `]}}`), "join string: data after the end"},
		"no network":        {wrap(`{"coordinators":[` + coordinator + `]}`), want},
		"no coordinators":   {wrap(`{` + net + `}`), want},
		"empty list":        {wrap(`{` + net + `,"coordinators":[]}`), want},
		"17 coordinators":   {wrap(`{` + net + `,"coordinators":[` + strings.Repeat(coordinator+",", 16) + coordinator + `]}`), want},
		"no pin":            {wrap(`{` + net + `,"coordinators":[{"addr":"c:443"}]}`), `join string: coordinator "c:443": want host:port and a pin`},
		"pin null":          {wrap(`{` + net + `,"coordinators":[{"addr":"c:443","pin":null}]}`), `join string: coordinator "c:443": want host:port and a pin`},
		"pin small order":   {wrap(`{` + net + `,"coordinators":[{"addr":"c:443","pin":"idpub:aeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}`), "join string: identity key: a point of small order, for which anybody can sign"},
		"no port":           {wrap(`{` + net + `,"coordinators":[{"addr":"c",` + pin + `}]}`), `join string: coordinator "c": want host:port and a pin`},
		"no host":           {wrap(`{` + net + `,"coordinators":[{"addr":":443",` + pin + `}]}`), `join string: coordinator ":443": want host:port and a pin`},
		"a URL":             {wrap(`{` + net + `,"coordinators":[{"addr":"https://c:443",` + pin + `}]}`), `join string: coordinator "https://c:443": want host:port and a pin`},
		"second one is bad": {wrap(`{` + net + `,"coordinators":[` + coordinator + `,{"addr":"c:443"}]}`), `join string: coordinator "c:443": want host:port and a pin`},
		"too long":          {"writ1_" + strings.Repeat("A", maxJoinString), "join string of 8198 bytes: at most 8192"},
	} {
		j, err := ParseJoinString(c.in)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, j, err, c.want)
		}
		if !j.Network.IsZero() || j.Coordinators != nil {
			t.Errorf("%s: refused, and yet something is returned: %v", name, j)
		}
	}
}

func upperSum(s string) string { return s[:len(s)-8] + strings.ToUpper(s[len(s)-8:]) }
