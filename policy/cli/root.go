package cli

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

const rootHelp = `The root document says which keys are in force in a network, and the root keys sign it. The network's id is the hash of the first.

Example:

    policy root show trust/root-1.note
`

type rootCmd struct {
	Init rootInitCmd `cmd:"" help:"Make the first root document of a network."`
	Show rootShowCmd `cmd:"" help:"Print root documents, and whether their signatures verify."`
}

func (rootCmd) Help() string { return rootHelp }

const rootInitHelp = `Makes version 1 of a network's root document, signs it with the root keys and prints the network's id. Private root keys are read here and nothing else is: bring the public halves of the other keys as text, or as @FILE with the line that "policy keys new" printed.

Exit codes: 0 made, 2 could not, as when OUT exists.

Example:

    policy root init --root-key root.key --policy-key @policy.pub --admission-key @admission.pub --seal-key @seal.pub --signers trust/allowed_signers --out trust/root-1.note
`

type rootInitCmd struct {
	RootKey            []string `required:"" sep:"none" placeholder:"FILE" help:"File of a private root key; repeatable."`
	RootThreshold      int      `default:"1" help:"How many root keys must sign the next root document (1)."`
	PolicyKey          []string `required:"" sep:"none" placeholder:"KEY|@FILE" help:"A public policy key; repeatable."`
	PolicyThreshold    int      `default:"1" help:"How many policy keys must sign a manifest (1)."`
	AdmissionKey       []string `required:"" sep:"none" placeholder:"KEY|@FILE" help:"A public admission key; repeatable."`
	AdmissionThreshold int      `default:"1" help:"How many admission keys must sign an admission (1)."`
	SealKey            []string `required:"" sep:"none" placeholder:"KEY|@FILE" help:"A public sealing key; repeatable."`
	Signers            string   `required:"" placeholder:"FILE" help:"allowed_signers of the first commit (ssh-keygen(1))."`
	Out                string   `required:"" placeholder:"FILE" help:"New file for the root document: trust/root-1.note."`
}

func (rootInitCmd) Help() string { return rootInitHelp }

func (c rootInitCmd) Run(e *env) error {
	doc, err := c.document()
	if err != nil {
		return fmt.Errorf("root init: %w", err)
	}
	var signers []trust.SigningKey
	for _, file := range c.RootKey {
		k, err := readSigningKey(file)
		if err != nil {
			return fmt.Errorf("root init: %w", err)
		}
		signers = append(signers, k)
		doc.RootKeys = append(doc.RootKeys, k.Public())
	}
	root, err := trust.NewRoot(doc)
	if err != nil {
		return fmt.Errorf("root init: %w", err)
	}
	msg, err := trust.Sign(root.Text(), signers...)
	if err != nil {
		return fmt.Errorf("root init: %w", err)
	}
	if _, err := trust.OpenFirstRoot(msg, root.Network); err != nil {
		return fmt.Errorf("root init: %w", err)
	}
	if err := writeNew(c.Out, msg, 0o644); err != nil {
		return fmt.Errorf("root init: %w", err)
	}
	_, err = fmt.Fprintln(e.stdout, root.Network)
	return err
}

// document is everything but the root keys.
func (c rootInitCmd) document() (r trust.Root, err error) {
	r = trust.Root{
		Version: 1, Epoch: 1, Issued: time.Now().UTC().Truncate(time.Second),
		RootThreshold: c.RootThreshold, PolicyThreshold: c.PolicyThreshold, AdmissionThreshold: c.AdmissionThreshold,
	}
	if r.PolicyKeys, err = publicKeys("--policy-key", c.PolicyKey, trust.ParseVKey); err != nil {
		return r, err
	}
	if r.AdmissionKeys, err = publicKeys("--admission-key", c.AdmissionKey, trust.ParseVKey); err != nil {
		return r, err
	}
	if r.SealKeys, err = publicKeys("--seal-key", c.SealKey, key.ParseSealPublic); err != nil {
		return r, err
	}
	r.Signers, err = readSigners(c.Signers)
	return r, err
}

// publicKeys reads public keys, each as text or as @FILE. A private key given by
// mistake is not repeated in the error.
func publicKeys[T any](flag string, texts []string, parse func(string) (T, error)) (out []T, err error) {
	for _, text := range texts {
		if file, ok := strings.CutPrefix(text, "@"); ok {
			b, err := readFile(file, maxKey)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", flag, err)
			}
			text = strings.TrimSpace(string(b))
		}
		if what, public, err := describeKey(text); err == nil && public != text {
			return nil, fmt.Errorf("%s: a %s; give its public half (policy keys show)", flag, what)
		} else if err != nil && looksPrivate(text) {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		k, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		out = append(out, k)
	}
	return out, nil
}

func readSigningKey(file string) (trust.SigningKey, error) {
	b, err := readFile(file, maxKey)
	if err != nil {
		return trust.SigningKey{}, err
	}
	k, err := trust.ParseSigningKey(strings.TrimSpace(string(b)))
	if err != nil {
		return trust.SigningKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// readSigners reads the lines of an allowed_signers file, comments left out.
func readSigners(file string) (lines []string, err error) {
	b, err := readFile(file, trust.MaxRoot)
	if err != nil {
		return nil, fmt.Errorf("--signers: %w", err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if !hasSSHKey(line) {
			return nil, fmt.Errorf("--signers: %s:%d: want PRINCIPALS [OPTIONS] KEY-TYPE KEY, as in ssh-keygen(1)", file, n)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("--signers: %s names nobody, so nobody could sign the first commit", file)
	}
	return lines, nil
}

// hasSSHKey reports whether a line names a key's type after its principals and
// then a key of that type (RFC 4253 section 6.6).
func hasSSHKey(line string) bool {
	f := strings.Fields(line)
	for i := 1; i+1 < len(f); i++ {
		blob, err := base64.StdEncoding.DecodeString(f[i+1])
		if err != nil || len(blob) < 4 {
			continue
		}
		n := binary.BigEndian.Uint32(blob)
		if uint64(n)+4 <= uint64(len(blob)) && string(blob[4:4+n]) == f[i] {
			return true
		}
	}
	return false
}

const rootShowHelp = `Prints root documents, each with its hash, and for each signature whether it verifies. Documents are given in the order of their versions, beginning with the first; each must be signed by its own root threshold and by that of the version before.

Exit codes: 0 all verify, 1 one does not, 2 could not tell.

Example:

    policy root show trust/root-1.note trust/root-2.note
`

type rootShowCmd struct {
	Files []string `arg:"" name:"file" help:"Root documents."`
}

func (rootShowCmd) Help() string { return rootShowHelp }

func (c rootShowCmd) Run(e *env) error {
	v := &verifier{env: e}
	for i, file := range c.Files {
		if i > 0 {
			e.text.Plain("")
		}
		if err := v.root(file, true); err != nil {
			return fmt.Errorf("root show: %w", err)
		}
	}
	if v.failed {
		return errReport
	}
	return nil
}

var errNoRoot = errors.New("give the root documents with --root")
