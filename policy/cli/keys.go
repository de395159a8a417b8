package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

const keysHelp = `A private key is only ever written to its own new file, with mode 0600; what is printed is public.

Example:

    policy keys new policy --name policy-1 --out policy.key > policy.pub
`

type keysCmd struct {
	New  keysNewCmd  `cmd:"" help:"Make a key."`
	Show keysShowCmd `cmd:"" help:"Print the public half of a key, and what it is."`
}

func (keysCmd) Help() string { return keysHelp }

const keysNewHelp = `Makes a key of KIND and writes its private half to a new file, mode 0600; a file that exists is not touched. The public half goes to stdout.

KIND is root (signs root documents; keep it offline), policy (sync signs manifests with it), admission (sync signs admissions and ended lists), seal (opens join proofs), or enrolment (what servers join with; the entry to commit is printed). NAME stands in signatures; a sealing key has none.

Exit codes: 0 made, 2 could not.

Example:

    policy keys new enrolment --entry ledger-fleet --tag tag:accounting --out ledger.secret
`

type keysNewCmd struct {
	Kind  string   `arg:"" enum:"root,policy,admission,seal,enrolment" help:"root, policy, admission, seal or enrolment."`
	Name  string   `placeholder:"NAME" help:"Name of a root, policy or admission key, as it stands in signatures."`
	Out   string   `required:"" placeholder:"FILE" help:"New file for the private key."`
	Entry string   `placeholder:"NAME" help:"enrolment: the entry's name in the policy (NAME)."`
	Tag   []string `placeholder:"tag:TAG" help:"enrolment: a tag that nodes bear which join with the key; repeatable."`
	Names []string `placeholder:"PATTERN" help:"enrolment: names that such nodes may take (the entry's name up to its last '-', and '-*'); repeatable."`
}

func (keysNewCmd) Help() string { return keysNewHelp }

func (c keysNewCmd) Run(e *env) error {
	var secret, public string
	switch c.Kind {
	case "seal":
		k := key.NewSeal()
		secret, public = k.Secret(), k.Public().String()
	case "enrolment":
		s, entry, err := c.enrolment()
		if err != nil {
			return err
		}
		secret, public = s.Secret(), entry
	default:
		if c.Name == "" {
			return fmt.Errorf("keys new: a %s key needs --name", c.Kind)
		}
		k, err := trust.NewSigningKey(c.Name)
		if err != nil {
			return fmt.Errorf("keys new: %w", err)
		}
		secret, public = k.Secret(), k.Public().String()
	}
	if err := writeNew(c.Out, []byte(secret+"\n"), 0o600); err != nil {
		return fmt.Errorf("keys new: %w", err)
	}
	_, err := fmt.Fprintln(e.stdout, public)
	return err
}

// enrolment makes an enrolment secret and the entry of the policy that goes with
// it.
func (c keysNewCmd) enrolment() (papers.EnrolSecret, string, error) {
	entry := c.Entry
	if entry == "" {
		entry = c.Name
	}
	if err := acl.CheckName("enrolment", entry); err != nil {
		return papers.EnrolSecret{}, "", fmt.Errorf("keys new: --entry: %w", err)
	}
	if len(c.Tag) == 0 {
		return papers.EnrolSecret{}, "", errors.New("keys new: an enrolment key needs --tag")
	}
	var tags []string
	for _, t := range c.Tag {
		sel, err := acl.ParseSelector(t)
		if err != nil || sel.Kind != acl.KindTag {
			return papers.EnrolSecret{}, "", fmt.Errorf("keys new: --tag %q: want tag:NAME", t)
		}
		tags = append(tags, sel.Name)
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	names := c.Names
	if len(names) == 0 {
		stem := entry[strings.LastIndexByte(entry, '/')+1:]
		if i := strings.LastIndexByte(stem, '-'); i > 0 {
			stem = stem[:i]
		}
		names = []string{stem + "-*"}
	}
	s := papers.EnrolSecret{Entry: entry, Tags: tags, Key: key.NewEnrol()}
	if _, err := papers.ParseEnrolSecret(s.Secret()); err != nil {
		return s, "", fmt.Errorf("keys new: %w", err)
	}
	quoted := func(prefix string, list []string) string {
		out := make([]string, len(list))
		for i, s := range list {
			out[i] = fmt.Sprintf("%q", prefix+s)
		}
		return strings.Join(out, ", ")
	}
	return s, fmt.Sprintf("enrolment: %q: {key: %q, tags: [%s], names: [%s]}",
		entry, s.Key.Public(), quoted("tag:", tags), quoted("", names)), nil
}

// writeNew writes a file that does not exist yet: whole and on disk, or not at
// all. Mode bits are exactly those given.
func writeNew(name string, data []byte, mode os.FileMode) error {
	// A hard link fails where the name is taken, also by a dangling link.
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Link(f.Name(), name); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists", name)
	} else if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

const keysShowHelp = `Prints what the key in FILE is, and its public half. FILE may hold a private key, which is not printed, or a public one.

Exit codes: 0 printed, 2 could not.

Example:

    policy keys show policy.key
`

type keysShowCmd struct {
	File string `arg:"" help:"File of a key."`
}

func (keysShowCmd) Help() string { return keysShowHelp }

// maxKey bounds a key's file: an enrolment secret with many tags.
const maxKey = 8 << 10

func (c keysShowCmd) Run(e *env) error {
	b, err := readFile(c.File, maxKey)
	if err != nil {
		return fmt.Errorf("keys show: %w", err)
	}
	what, public, err := describeKey(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("keys show %s: %w", c.File, err)
	}
	_, err = fmt.Fprintf(e.stdout, "%s\n%s\n", what, public)
	return err
}

// describeKey says what a key's text is. Errors do not repeat the text.
func describeKey(s string) (what, public string, err error) {
	prefix, _, _ := strings.Cut(s, ":")
	switch {
	case strings.HasPrefix(s, "PRIVATE+KEY+"):
		k, err := trust.ParseSigningKey(s)
		if err != nil {
			return "", "", err
		}
		return "private signing key " + k.Public().Name(), k.Public().String(), nil
	case prefix == "sealkey":
		k, err := key.ParseSealPrivate(s)
		return "private sealing key", k.Public().String(), err
	case prefix == "sealpub":
		k, err := key.ParseSealPublic(s)
		return "public sealing key", k.String(), err
	case prefix == "idkey":
		k, err := key.ParseIdentityPrivate(s)
		return "private identity key", k.Public().String(), err
	case prefix == "idpub":
		k, err := key.ParseIdentityPublic(s)
		return "public identity key of " + k.NodeID().String(), k.String(), err
	case prefix == "enrol":
		k, err := key.ParseEnrolPublic(s)
		return "public enrolment key", k.String(), err
	case strings.Contains(s, " enrolkey:"):
		k, err := papers.ParseEnrolSecret(s)
		if err != nil {
			return "", "", err
		}
		return fmt.Sprintf("enrolment secret of %q for tag:%s", k.Entry, strings.Join(k.Tags, ", tag:")), k.Key.Public().String(), nil
	case strings.Count(s, "+") >= 2 && !strings.Contains(s, " "):
		k, err := trust.ParseVKey(s)
		if err != nil {
			return "", "", errors.New("not a key of a signed note")
		}
		return "public signing key " + k.Name(), k.String(), nil
	}
	return "", "", errors.New("not a key")
}

// looksPrivate reports whether a text may be a private key, or was meant to be
// one: no message repeats it then.
func looksPrivate(s string) bool {
	return strings.HasPrefix(s, "PRIVATE+KEY+") || strings.Contains(s, "key:")
}
