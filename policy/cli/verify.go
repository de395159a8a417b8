package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/papers"
	"github.com/writmesh/writ/coordinator/trust"
)

const verifyHelp = `Says of each FILE which signed document it is, its hash (of its text, so that a signature more does not change it), who signed it, and whether that suffices under the newest of the root documents given by --root. A root document among the files is judged by itself and joins the chain. Records and acknowledgements are signed by nodes: give the node's admission before them.

The first root document vouches for itself: compare the network's id that is printed with the one you were given.

Exit codes: 0 all verify, 1 one does not, 2 could not tell.

Example:

    policy verify --root trust manifest.note admission.note
`

type verifyCmd struct {
	Files []string `arg:"" name:"file" help:"Signed documents."`
	Root  []string `sep:"none" placeholder:"FILE|DIR" help:"Root documents in the order of their versions, or the directory that holds them as root-N.note; repeatable."`
}

func (verifyCmd) Help() string { return verifyHelp }

func (c verifyCmd) Run(e *env) error {
	v := &verifier{env: e}
	for _, path := range c.Root {
		files, err := rootFiles(path)
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		for _, file := range files {
			if err := v.root(file, false); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
		}
	}
	for _, file := range c.Files {
		if err := v.file(file); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	if v.failed {
		return errReport
	}
	return nil
}

// rootFiles are a file, or the root documents in a directory by version.
func rootFiles(path string) ([]string, error) {
	if !isDirectory(path) {
		return []string{path}, nil
	}
	var files []string
	for n := 1; ; n++ {
		file := filepath.Join(path, fmt.Sprintf("root-%d.note", n))
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no root-1.note", path)
	}
	return files, nil
}

// A verifier goes through files in their order and says what each is.
type verifier struct {
	env    *env
	newest *trust.Root                       // verified; nil until there is one
	nodes  map[key.NodeID]key.IdentityPublic // of verified admissions
	failed bool                              // one of the documents does not verify
}

// maxNoteFile is above the largest document there is.
const maxNoteFile = 1 << 20

// A document is what was found out about one file.
type document struct {
	what    string
	details []string // printed where it verifies
	keys    []trust.VKey
	note    []byte
	text    string
	err     error // why it does not verify
}

func (v *verifier) file(name string) error {
	msg, err := readFile(name, maxNoteFile)
	if err != nil {
		return err
	}
	return v.document(name, msg)
}

// document says what a file's content is.
func (v *verifier) document(name string, msg []byte) error {
	text, err := trust.Text(msg)
	if err != nil {
		return fmt.Errorf("%s: not a signed note: %w", name, err)
	}
	kind, _, _ := strings.Cut(text, "\n")
	d := document{note: msg, text: text}
	if strings.HasPrefix(kind, "writ/root/") {
		v.rootDocument(name, d, false)
		return nil
	}
	if v.newest != nil {
		d.keys = slices.Concat(v.newest.RootKeys, v.newest.PolicyKeys, v.newest.AdmissionKeys)
	}
	switch kind {
	case "writ/manifest/v1":
		d.what = "manifest"
		v.manifest(&d)
	case "writ/ended/v1":
		d.what = "ended list"
		v.ended(&d)
	case "writ/admission/v1":
		d.what = "admission"
		v.admission(&d)
	case "writ/record/v1":
		d.what = "record"
		v.record(&d)
	case "writ/ack/v1":
		d.what = "acknowledgement"
		v.ack(&d)
	default:
		d.what, d.err = "signed note", fmt.Errorf("of unknown type %q", kind)
	}
	v.print(name, d)
	return nil
}

// root reads the next root document of the chain from a file.
func (v *verifier) root(name string, whole bool) error {
	msg, err := readFile(name, maxNoteFile)
	if err != nil {
		return err
	}
	text, err := trust.Text(msg)
	if err != nil {
		return fmt.Errorf("%s: not a signed note: %w", name, err)
	}
	v.rootDocument(name, document{note: msg, text: text}, whole)
	return nil
}

// rootDocument takes up the next root document of the chain.
func (v *verifier) rootDocument(name string, d document, whole bool) {
	d.what = "root document"
	hash := key.HashOf([]byte(d.text))
	var root *trust.Root
	switch {
	case v.newest == nil:
		root, d.err = trust.OpenFirstRoot(d.note, key.NetworkID(hash))
	case v.newest.Hash() == hash:
		root = v.newest
		_, d.err = trust.Open(d.note, trust.MaxRoot, root.RootKeys, root.RootThreshold)
	default:
		d.keys = v.newest.RootKeys
		root, d.err = trust.OpenNextRoot(d.note, v.newest)
	}
	if d.err == nil {
		v.newest = root
		d.what = fmt.Sprintf("root document, version %d", root.Version)
		d.keys = slices.Concat(d.keys, root.RootKeys)
		d.details = []string{"network   " + root.Network.String()}
		if whole {
			d.details = append(d.details, rootDetails(root)...)
		}
	}
	v.print(name, d)
}

func rootDetails(r *trust.Root) []string {
	out := []string{fmt.Sprintf("epoch     %d, issued %s", r.Epoch, moment(r.Issued))}
	for _, role := range []struct {
		name      string
		threshold int
		keys      []trust.VKey
	}{{"root", r.RootThreshold, r.RootKeys}, {"policy", r.PolicyThreshold, r.PolicyKeys}, {"admission", r.AdmissionThreshold, r.AdmissionKeys}} {
		for i, k := range role.keys {
			lead := ""
			if i == 0 {
				lead = role.name
			}
			out = append(out, fmt.Sprintf("%-9s %s", lead, k))
		}
		out = append(out, fmt.Sprintf("%-9s %d of %d must sign", "", role.threshold, len(role.keys)))
	}
	for _, k := range r.SealKeys {
		out = append(out, "seal      "+k.String())
	}
	for _, s := range r.Signers {
		out = append(out, "signer    "+s)
	}
	return out
}

func (v *verifier) manifest(d *document) {
	if d.err = v.needRoot(); d.err != nil {
		return
	}
	m, err := trust.OpenManifest(d.note, v.newest)
	if d.err = err; err != nil {
		return
	}
	d.details = []string{
		fmt.Sprintf("revision  epoch %d, seq %d, issued %s", m.Epoch, m.Seq, moment(m.Issued)),
		fmt.Sprintf("commit    %s", m.Commit),
		fmt.Sprintf("tree      %s, %d leaves", m.Tree, m.Leaves),
	}
}

func (v *verifier) ended(d *document) {
	if d.err = v.needRoot(); d.err != nil {
		return
	}
	e, err := trust.OpenEnded(d.note, v.newest)
	if d.err = err; err != nil {
		return
	}
	d.details = []string{fmt.Sprintf("number    %d, epoch %d, nodes %d, issued %s", e.Number, e.Epoch, len(e.Nodes), moment(e.Issued))}
}

func (v *verifier) admission(d *document) {
	if d.err = v.needRoot(); d.err != nil {
		return
	}
	a, err := papers.OpenAdmission(d.note, v.newest)
	if d.err = err; err != nil {
		return
	}
	if v.nodes == nil {
		v.nodes = map[key.NodeID]key.IdentityPublic{}
	}
	v.nodes[a.Identity.NodeID()] = a.Identity
	var who []string
	for _, p := range a.Principals() {
		who = append(who, p.String())
	}
	d.details = []string{
		"node      " + a.Identity.NodeID().String(),
		fmt.Sprintf("name      %s, %s and %s", a.Name, a.IPv4, a.IPv6),
		fmt.Sprintf("is        %s, by %s", strings.Join(who, ", "), a.Basis),
	}
}

func (v *verifier) record(d *document) {
	id, err := v.signer(d)
	if d.err = err; err != nil {
		return
	}
	r, err := papers.OpenRecord(d.note, v.newest.Network, id)
	if d.err = err; err != nil {
		return
	}
	d.details = []string{
		fmt.Sprintf("serial    %d, from %s to %s", r.Serial, moment(r.Issued), moment(r.Expires)),
		fmt.Sprintf("key       %s", r.WG),
	}
}

func (v *verifier) ack(d *document) {
	id, err := v.signer(d)
	if d.err = err; err != nil {
		return
	}
	a, err := papers.OpenAck(d.note, v.newest.Network, id)
	if d.err = err; err != nil {
		return
	}
	d.details = []string{fmt.Sprintf("enforces  epoch %d, seq %d, %s", a.Position.Epoch, a.Position.Seq, a.Manifest)}
}

func (v *verifier) needRoot() error {
	if v.newest == nil {
		return errNoRoot
	}
	return nil
}

// signer finds the identity key of the node that a document says it is about.
func (v *verifier) signer(d *document) (key.IdentityPublic, error) {
	if err := v.needRoot(); err != nil {
		return key.IdentityPublic{}, err
	}
	for line := range strings.Lines(d.text) {
		if value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "node "); ok {
			id, err := key.ParseNodeID(value)
			if err != nil {
				return key.IdentityPublic{}, err
			}
			k, ok := v.nodes[id]
			if !ok {
				return key.IdentityPublic{}, fmt.Errorf("give the admission of %s before it", id.Short())
			}
			return k, nil
		}
	}
	return key.IdentityPublic{}, errors.New("names no node")
}

// print writes what was found out.
func (v *verifier) print(name string, d document) {
	t := v.env.text
	t.Plain(fmt.Sprintf("%s: %s", name, d.what))
	t.Item("hash", key.HashOf([]byte(d.text)).String())
	for _, line := range d.details {
		label, rest, _ := strings.Cut(line, " ")
		t.Item(label, strings.TrimLeft(rest, " "))
	}
	for _, s := range signatures(d.note, len(d.text)) {
		state := "not by a key in force"
		if d.err == nil && strings.HasPrefix(s, "nid:") {
			state = "verifies"
		}
		for _, k := range d.keys {
			if k.Name() != s {
				continue
			}
			if _, err := trust.Open(d.note, maxNoteFile, []trust.VKey{k}, 1); err == nil {
				state = "verifies"
			}
		}
		t.Item("signed", s+": "+state)
	}
	if d.err != nil {
		v.failed = true
		t.Refused(d.err.Error())
		return
	}
	t.Verified()
}

// signatures are the names of a note's signers, as the note says.
func signatures(note []byte, text int) (names []string) {
	for line := range strings.Lines(string(note[min(text, len(note)):])) {
		if rest, ok := strings.CutPrefix(line, "— "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
	}
	return names
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
