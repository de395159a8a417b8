package verify

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/writmesh/writ/policy/source/commit"
	"github.com/writmesh/writ/policy/source/sourcetest"
)

const (
	madeAt   = 1767225600 // 2026-01-01T00:00:00Z
	headers  = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Alice <alice@acme.example> 1767225600 +0000\ncommitter Alice <alice@acme.example> 1767225600 +0000\n"
	unsigned = headers + "\nopen the ledger\n"
)

var now = time.Unix(madeAt, 0)

func rawCommit(tb testing.TB, b []byte) RawCommit {
	tb.Helper()
	id, err := commit.ID("commit", b)
	if err != nil {
		tb.Fatal(err)
	}
	return RawCommit{id, b}
}

func signed(tb testing.TB, s ssh.Signer) []byte {
	tb.Helper()
	armored, err := Sign([]byte(unsigned), s)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := commit.Sign([]byte(unsigned), armored)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// signedAs signs with another namespace or digest than Sign would.
func signedAs(tb testing.TB, s ssh.Signer, h sshsig.HashAlgorithm, namespace string) []byte {
	tb.Helper()
	sig, err := sshsig.Sign(strings.NewReader(unsigned), s, h, namespace)
	if err != nil {
		tb.Fatal(err)
	}
	return withSignature(string(sshsig.Armor(sig)))
}

// withSignature puts a header gpgsig where Git does, whatever it holds.
func withSignature(armored string) []byte {
	return []byte(headers + "gpgsig " + strings.ReplaceAll(strings.TrimSuffix(armored, "\n"), "\n", "\n ") + "\n\nopen the ledger\n")
}

func parseSigners(tb testing.TB, text string) *AllowedSigners {
	tb.Helper()
	a, err := ParseAllowedSigners("trust/allowed_signers", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// git runs git verify-commit with a list of allowed signers: the truth that this
// package is compared with.
type git struct {
	repo *sourcetest.Repo
	tb   testing.TB
}

// newGit skips the comparison where git or ssh-keygen is absent, but not in CI,
// which must have both.
func newGit(tb testing.TB) *git {
	tb.Helper()
	for _, program := range []string{"git", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				tb.Fatalf("%s is not installed", program)
			}
			tb.Skipf("%s is not installed: NOT COMPARED with git verify-commit", program)
		}
	}
	repo := sourcetest.New(tb)
	repo.Tree(nil) // the empty tree, which every commit here has
	return &git{repo, tb}
}

func (g *git) accepts(raw []byte, allowed string) (bool, string) {
	g.tb.Helper()
	id := g.repo.Object("commit", raw)
	list := filepath.Join(g.tb.TempDir(), "allowed_signers")
	if err := os.WriteFile(list, []byte(allowed), 0o600); err != nil {
		g.tb.Fatal(err)
	}
	cmd := exec.Command("git", "-c", "gpg.ssh.allowedSignersFile="+list, "verify-commit", id)
	cmd.Env = append(os.Environ(), "GIT_DIR="+g.repo.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

// Every case has the verdict here, and git's. Git may accept what is refused
// here, where strict says so; never the other way round.
func TestCommit(t *testing.T) {
	alice, bob := ed25519Signer(t, 1), ed25519Signer(t, 2)
	list := "alice@acme.example " + public(alice) + "\n"
	good := signed(t, alice)
	_, armored, err := commit.Signature(good)
	if err != nil {
		t.Fatal(err)
	}
	header := "gpgsig " + strings.ReplaceAll(strings.TrimSuffix(armored, "\n"), "\n", "\n ") + "\n"
	p256, p384, p521 := ecdsaSigner(t, elliptic.P256()), ecdsaSigner(t, elliptic.P384()), ecdsaSigner(t, elliptic.P521())
	touched, untouched := newTouchKey(t, 1), newTouchKey(t, 0)
	replace := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }

	weak := rsaSigner(t, rsa2048)
	weakSig, err := sshsig.Sign(strings.NewReader(unsigned), weak, sshsig.HashSHA512, Namespace)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: alice.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(bytes.NewReader(make([]byte, 1024)), bob); err != nil {
		t.Fatal(err)
	}
	certSigner, err := ssh.NewCertSigner(cert, alice)
	if err != nil {
		t.Fatal(err)
	}

	git := newGit(t)
	for _, tc := range []struct {
		name   string
		raw    []byte
		list   string
		want   string // part of the reason; "" means accepted
		strict bool   // git accepts it nevertheless
	}{
		{"ed25519", good, list, "", false},
		{"sha256_digest", signedAs(t, alice, sshsig.HashSHA256, "git"), list, "", false},
		{"p256", signed(t, p256), "a " + public(p256), "", false},
		{"p384", signed(t, p384), "a " + public(p384), "", false},
		{"p521", signed(t, p521), "a " + public(p521), "", false},
		{"rsa3072", signed(t, rsaSigner(t, rsa3072)), "a " + public(rsaSigner(t, rsa3072)), "", false},
		{"security_key", signed(t, touched), "a " + public(touched), "", false},

		{"unsigned", []byte(unsigned), list, "not signed", false},
		{"empty_signature", withSignature(""), list, "not an SSH signature", false},
		{"other_key", signed(t, bob), list, "is not in trust/allowed_signers", false},
		{"no_signers", good, "", "is not in trust/allowed_signers", false},
		{"wrong_namespace", signedAs(t, alice, sshsig.HashSHA512, "file"), list, `for the namespace "file"`, false},
		{"namespace_prefix", signedAs(t, alice, sshsig.HashSHA512, "git\x00"), list, `for the namespace "git\x00"`, false},
		{"message_changed", replace("ledger", "vault!"), list, "does not match", false},
		{"author_changed", replace("author Alice", "author Mallo"), list, "does not match", false},
		{"header_added", replace("gpgsig ", "change-id x\ngpgsig "), list, "does not match", false},
		{"two_signatures", replace("gpgsig ", header+"gpgsig "), list, "gpgsig twice", true},
		{"second_signature_sha256", replace("gpgsig ", strings.Replace(header, "gpgsig", "gpgsig-sha256", 1)+"gpgsig "), list, "gpgsig-sha256 is not supported", true},
		{"signature_in_message", []byte(headers + "\n" + header + "\nopen the ledger\n"), list, "not signed", false},
		{"latin1_message", replace("ledger", "l\xe9dger"), list, "not UTF-8", false},
		{"no_continuation", replace("\n ", "\n"), list, "without a name", false},
		{"extra_space", replace("\n ", "\n  "), list, "armor", true},
		{"cut_short", withSignature(armored[:len(armored)/2]), list, "armored block", false},
		{"text_before_armor", withSignature("Comment\n" + armored), list, "not an SSH signature", false},
		{"text_after_armor", withSignature(armored + "more"), list, "armored block", true},
		{"two_armors", withSignature(armored + armored), list, "armored block", true},
		{"openpgp", withSignature("-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"), list, "OpenPGP, which is not supported", false},
		{"x509", withSignature("-----BEGIN SIGNED MESSAGE-----\nAAAA\n-----END SIGNED MESSAGE-----\n"), list, "X.509, which is not supported", false},
		{"rsa2048", withSignature(string(sshsig.Armor(weakSig))), list, "RSA key of 2048 bits", false},
		{"untouched_security_key", signed(t, untouched), "a " + public(untouched), "nobody touched", true},
		{"certificate", signedAs(t, certSigner, sshsig.HashSHA512, "git"), list, "certificates", false},
		{"sha1_digest", sha1Digest(t, alice), list, "unsupported hash algorithm", false},
		{"rsa_sha1", rsaSHA1(t, rsaSigner(t, rsa3072)), "a " + public(rsaSigner(t, rsa3072)), `invalid signature format "ssh-rsa"`, false},
		{"trailing_bytes", trailingBytes(t, alice), list, "bytes after its end", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			who, err := Commit(rawCommit(t, tc.raw), parseSigners(t, tc.list), now)
			byGit, output := git.accepts(tc.raw, tc.list)
			if tc.want == "" {
				if err != nil || who.Line != 1 || who.Principal == "" || !strings.HasPrefix(who.Key, "SHA256:") {
					t.Errorf("got %+v, %v; want it accepted", who, err)
				}
				if !byGit {
					t.Errorf("git refuses it: %s", output)
				}
				return
			}
			var refusal *Refusal
			if !errors.As(err, &refusal) || !strings.Contains(refusal.Reason.Error(), tc.want) {
				t.Errorf("got %v, want a refusal for %q", err, tc.want)
			} else if id := rawCommit(t, tc.raw).Hash; refusal.Commit != id || !strings.Contains(err.Error(), id[:12]) {
				t.Errorf("got %v, want it to name commit %s", err, id)
			}
			if byGit != tc.strict {
				t.Errorf("git accepts: %v, want %v: %s", byGit, tc.strict, output)
			}
		})
	}
}

// sha1Digest is a signature whose message digest is said to be SHA-1.
func sha1Digest(tb testing.TB, s ssh.Signer) []byte {
	sig, err := sshsig.Sign(strings.NewReader(unsigned), s, sshsig.HashSHA512, Namespace)
	if err != nil {
		tb.Fatal(err)
	}
	sig.HashAlgorithm = "sha1"
	return withSignature(string(sshsig.Armor(sig)))
}

// rsaSHA1 is a signature by RSA with SHA-1, which OpenSSH calls ssh-rsa.
func rsaSHA1(tb testing.TB, s ssh.Signer) []byte {
	sig, err := sshsig.Sign(strings.NewReader(unsigned), s, sshsig.HashSHA512, Namespace)
	if err != nil {
		tb.Fatal(err)
	}
	sig.Signature.Format = ssh.KeyAlgoRSA
	return withSignature(string(sshsig.Armor(sig)))
}

func trailingBytes(tb testing.TB, s ssh.Signer) []byte {
	sig, err := sshsig.Sign(strings.NewReader(unsigned), s, sshsig.HashSHA512, Namespace)
	if err != nil {
		tb.Fatal(err)
	}
	sig.Signature.Rest = []byte{0}
	return withSignature(string(sshsig.Armor(sig)))
}

// Changing any one byte of a signed commit, or leaving it out, is noticed; where
// it is not, git agrees that nothing signed has changed.
func TestEveryByteCounts(t *testing.T) {
	alice := ed25519Signer(t, 1)
	list := "alice@acme.example " + public(alice) + "\n"
	signers := parseSigners(t, list)
	good := signed(t, alice)
	git := newGit(t)
	for i := range good {
		for _, bad := range [][]byte{
			append(append(bytes.Clone(good[:i]), good[i]^1), good[i+1:]...),
			append(bytes.Clone(good[:i]), good[i+1:]...),
			append(append(bytes.Clone(good[:i]), '\n'), good[i:]...),
			append(append(bytes.Clone(good[:i]), ' '), good[i:]...),
		} {
			if _, err := Commit(rawCommit(t, bad), signers, now); err == nil && !bytes.Equal(bad, good) {
				if ok, out := git.accepts(bad, list); !ok {
					t.Errorf("byte %d: accepted, and git refuses it: %s\n%s", i, out, bad)
				}
			}
		}
	}
	if _, err := Commit(RawCommit{strings.Repeat("0", 40), good}, signers, now); err == nil || !strings.Contains(err.Error(), "hash to") {
		t.Errorf("under another name: got %v, want a refusal", err)
	}
}

// The lookup of a key follows git's two steps through ssh-keygen.
func TestLookupAsGitDoes(t *testing.T) {
	alice, bob := ed25519Signer(t, 1), ed25519Signer(t, 2)
	a, b := public(alice), public(bob)
	raw := signed(t, alice)
	git := newGit(t)
	for name, list := range map[string]string{
		"plain":                    "alice@acme.example " + a,
		"comment_and_blank":        "# signers\n\n  \t\n  alice@acme.example " + a + " Alice's laptop\n",
		"crlf":                     "alice@acme.example " + a + "\r\n",
		"tabs":                     "alice@acme.example\t" + strings.Replace(a, " ", "\t", 1),
		"several_principals":       "carol,alice@acme.example " + a,
		"wildcard":                 "*@acme.example " + a,
		"negated":                  "*@acme.example,!bob@acme.example " + a,
		"only_negated":             "!bob@acme.example " + a,
		"excludes_itself":          "alice@acme.example,!alice* " + a,
		"negates_all":              "alice@acme.example,!* " + a,
		"quoted":                   `"alice@acme.example" ` + a,
		"quoted_space":             `"Alice Doe" ` + a,
		"namespace_git":            `alice namespaces="git" ` + a,
		"namespace_list":           `alice namespaces="file,git" ` + a,
		"namespace_wildcard":       `alice namespaces="g*" ` + a,
		"namespace_negated":        `alice namespaces="*,!git" ` + a,
		"namespace_file":           `alice namespaces="file" ` + a,
		"namespace_upper":          `alice NAMESPACES="git" ` + a,
		"namespace_case":           `alice namespaces="GIT" ` + a,
		"after_earlier":            `alice valid-after="20250101Z" ` + a,
		"after_same":               `alice valid-after="20260101000000Z" ` + a,
		"after_a_second":           `alice valid-after="20260101000001Z" ` + a,
		"before_later":             `alice valid-before="20270101Z" ` + a,
		"before_same":              `alice valid-before="202601010000Z" ` + a,
		"before_a_second":          `alice valid-before="20251231235959Z" ` + a,
		"window":                   `alice valid-after="20250101",valid-before="20270101" ` + a,
		"window_and_namespace":     `alice valid-after="20250101",namespaces="git",valid-before="20270101" ` + a,
		"local_time_is_utc":        `alice valid-after="20260101" ` + a,
		"second_line":              "bob " + b + "\nalice " + a,
		"same_key_expired_first":   `alice valid-before="20250101Z" ` + a + "\nalice " + a,
		"same_key_other_principal": `carol valid-before="20250101Z" ` + a + "\nalice " + a,
		"same_key_other_namespace": `carol namespaces="file" ` + a + "\nalice " + a,
		"second_principal_matches": `carol,alice valid-before="20250101Z" ` + a + "\nalice " + a,
		"second_line_wildcard":     `carol valid-before="20250101Z" ` + a + "\n* " + a,
	} {
		t.Run(name, func(t *testing.T) {
			who, err := Commit(rawCommit(t, raw), parseSigners(t, list), now)
			byGit, out := git.accepts(raw, list)
			if (err == nil) != byGit {
				t.Errorf("got %+v, %v; git accepts: %v: %s", who, err, byGit, out)
			}
		})
	}
}

func TestSignerIsNamed(t *testing.T) {
	alice, bob := ed25519Signer(t, 1), ed25519Signer(t, 2)
	signers := parseSigners(t, "# team\nbob@acme.example "+public(bob)+"\nalice@acme.example,a "+public(alice)+"\n")
	got, err := Commit(rawCommit(t, signed(t, alice)), signers, now)
	want := Signer{"alice@acme.example", 3, ssh.FingerprintSHA256(alice.PublicKey())}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestFutureCommitIsRefused(t *testing.T) {
	alice := ed25519Signer(t, 1)
	signers := parseSigners(t, "a "+public(alice))
	raw := rawCommit(t, signed(t, alice))
	if _, err := Commit(raw, signers, now.Add(-MaxAhead)); err != nil {
		t.Errorf("%s ahead: got %v, want it accepted", MaxAhead, err)
	}
	if _, err := Commit(raw, signers, now.Add(-MaxAhead-time.Second)); err == nil || !strings.Contains(err.Error(), "still to come") {
		t.Errorf("more than %s ahead: got %v, want a refusal", MaxAhead, err)
	}
}

// One unsigned commit below a signed head, a merge included, is found and named.
func TestRange(t *testing.T) {
	alice := ed25519Signer(t, 1)
	signers := parseSigners(t, "a "+public(alice))
	key, err := NewKey(alice)
	if err != nil {
		t.Fatal(err)
	}
	var all []RawCommit
	parents := ""
	for i := range 4 {
		raw := []byte(strings.Replace(unsigned, "author", parents+"author", 1))
		s, err := key.SignCommit(raw)
		if err != nil {
			t.Fatal(err)
		}
		c := rawCommit(t, s)
		all = append(all, c)
		parents += "parent " + c.Hash + "\n" // the later ones are merges
		if i == 3 {
			all = append(all, rawCommit(t, raw))
		}
	}
	if who, err := Range(all[:4], signers, now); err != nil || len(who) != 4 {
		t.Errorf("got %v, %v; want four signers", who, err)
	}
	var r *Refusal
	if _, err := Range([]RawCommit{all[0], all[4], all[2]}, signers, now); !errors.As(err, &r) || r.Commit != all[4].Hash || !errors.Is(err, errUnsigned) {
		t.Errorf("got %v, want %s to be refused as unsigned", err, all[4].Hash)
	}
	if who, err := Range(nil, nil, now); err != nil || len(who) != 0 {
		t.Errorf("no commits: got %v, %v", who, err)
	}
	if _, err := Range(all[:1], nil, now); err == nil {
		t.Error("no list of signers: accepted")
	}
}

func TestKeyFile(t *testing.T) {
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	block, err := ssh.MarshalPrivateKey(priv, "alice")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(priv, "alice", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k, err := LoadKey(write("good", pem.EncodeToMemory(block), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.SignCommit([]byte(unsigned))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Commit(rawCommit(t, raw), parseSigners(t, "a "+k.Public()), now); err != nil {
		t.Errorf("got %v, want it accepted", err)
	}
	for want, path := range map[string]string{
		"its owner alone": write("open", pem.EncodeToMemory(block), 0o640),
		"it is encrypted": write("locked", pem.EncodeToMemory(locked), 0o600),
		"no key found":    write("empty", nil, 0o600),
		"larger than":     write("large", make([]byte, maxKeyFile+1), 0o600),
		"no such file":    filepath.Join(t.TempDir(), "none"),
	} {
		if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error containing %q", err, want)
		}
	}
	if _, err := NewKey(rsaSigner(t, rsa2048)); err == nil {
		t.Error("a key of 2048 bits is taken for signing")
	}
}

// What go-git signs with a Key and stores is accepted.
func TestGoGitSigner(t *testing.T) {
	key, err := NewKey(ed25519Signer(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	who := object.Signature{Name: "Alice", Email: "alice@acme.example", When: now}
	c := &object.Commit{Author: who, Committer: who, Message: "m\n", TreeHash: plumbing.NewHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")}
	mem := &plumbing.MemoryObject{}
	if err := c.EncodeWithoutSignature(mem); err != nil {
		t.Fatal(err)
	}
	r, _ := mem.Reader()
	sig, err := key.Sign(r)
	if err != nil {
		t.Fatal(err)
	}
	c.PGPSignature = string(sig)
	stored := &plumbing.MemoryObject{}
	if err := c.Encode(stored); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	r, _ = stored.Reader()
	raw.ReadFrom(r)
	if _, err := Commit(rawCommit(t, raw.Bytes()), parseSigners(t, "a "+key.Public()), now); err != nil {
		t.Errorf("got %v, want it accepted", err)
	}
}

func FuzzCommit(f *testing.F) {
	alice := ed25519Signer(f, 1)
	signers := parseSigners(f, "alice "+public(alice))
	good := signed(f, alice)
	f.Add(good)
	f.Add([]byte(unsigned))
	f.Add(signedAs(f, alice, sshsig.HashSHA256, "git"))
	f.Add(sha1Digest(f, alice))
	f.Add(trailingBytes(f, alice))
	f.Add(withSignature("-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := commit.ID("commit", raw)
		if err != nil {
			return
		}
		if _, err := Commit(RawCommit{id, raw}, signers, now); err != nil {
			return
		}
		// Accepted: then it is one of the commits that Alice's key signed here.
		payload, _, err := commit.Signature(raw)
		if err != nil || string(payload) != unsigned {
			t.Errorf("accepted, with the signed bytes %q (%v): %s", payload, err, fmt.Sprintf("%q", raw))
		}
	})
}
