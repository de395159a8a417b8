package verify

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

const (
	armorBegin = "-----BEGIN SSH SIGNATURE-----"
	armorEnd   = "-----END SSH SIGNATURE-----"

	// maxArmored bounds an armored signature; one by RSA-16384 has 6 KiB.
	maxArmored = 16 << 10

	// flagUserPresent is the bit of a security key's flags that says somebody
	// touched it (OpenSSH PROTOCOL.u2f).
	flagUserPresent = 1
)

var errUnsigned = errors.New("not signed")

// parseSignature reads an armored signature and checks everything about it that
// does not need the signed bytes.
func parseSignature(armored string) (*sshsig.Signature, error) {
	switch {
	case armored == "":
		return nil, errUnsigned
	case strings.HasPrefix(armored, "-----BEGIN PGP"):
		return nil, errors.New("signed with OpenPGP, which is not supported: sign with an SSH key (gpg.format=ssh)")
	case strings.HasPrefix(armored, "-----BEGIN SIGNED MESSAGE-----"):
		return nil, errors.New("signed with X.509, which is not supported: sign with an SSH key (gpg.format=ssh)")
	}
	blob, err := unarmor(armored)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if sig.Namespace != Namespace {
		return nil, fmt.Errorf("signature is for the namespace %.40q, not %q", sig.Namespace, Namespace)
	}
	if err := checkKey(sig.PublicKey); err != nil {
		return nil, err
	}
	want := []string{sig.PublicKey.Type()}
	if want[0] == ssh.KeyAlgoRSA {
		want = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
	}
	if !slices.Contains(want, sig.Signature.Format) {
		return nil, fmt.Errorf("signature of the form %.60q by a key of type %s", sig.Signature.Format, sig.PublicKey.Type())
	}
	if isSecurityKey(sig.PublicKey) {
		// One byte of flags and four of a counter follow the signature.
		if len(sig.Signature.Rest) != 5 {
			return nil, errors.New("signature of a security key without flags and counter")
		}
		if sig.Signature.Rest[0]&flagUserPresent == 0 {
			return nil, errors.New("signature of a security key that nobody touched")
		}
	} else if len(sig.Signature.Rest) != 0 {
		return nil, errors.New("signature has bytes after its end")
	}
	return sig, nil
}

// unarmor reads one armored block that is all of s.
func unarmor(s string) ([]byte, error) {
	if len(s) > maxArmored {
		return nil, fmt.Errorf("longer than %d bytes", maxArmored)
	}
	body, ok := strings.CutPrefix(s, armorBegin+"\n")
	if !ok {
		return nil, errors.New("not an SSH signature")
	}
	body, ok = strings.CutSuffix(strings.TrimSuffix(body, "\n"), "\n"+armorEnd)
	if !ok || strings.Contains(body, "-") {
		return nil, errors.New("not one armored block")
	}
	// Newlines alone are skipped by the decoder, as between the lines here.
	b, err := base64.StdEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("armor: %w", err)
	}
	return b, nil
}

func verifySignature(sig *sshsig.Signature, payload []byte) error {
	if err := sshsig.Verify(bytes.NewReader(payload), sig, sig.PublicKey, sig.HashAlgorithm, Namespace); err != nil {
		return fmt.Errorf("signature does not match the commit: %w", err)
	}
	return nil
}

func isSecurityKey(k ssh.PublicKey) bool {
	return k.Type() == ssh.KeyAlgoSKED25519 || k.Type() == ssh.KeyAlgoSKECDSA256
}

// checkKey refuses keys that are weak or of a kind not supported.
func checkKey(k ssh.PublicKey) error {
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		ck, ok := k.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("RSA key of unknown size")
		}
		pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey)
		if !ok {
			return errors.New("RSA key of unknown size")
		}
		if n := pub.N.BitLen(); n < MinRSA {
			return fmt.Errorf("RSA key of %d bits; the least is %d", n, MinRSA)
		}
		return nil
	}
	if strings.Contains(k.Type(), "-cert-") {
		return fmt.Errorf("certificates (%.60s) are not supported: list the key itself", k.Type())
	}
	return fmt.Errorf("keys of type %.60s are not supported", k.Type())
}
