// Package migrate turns other systems' policy files into policy repositories that
// mean the same.
//
// What comes out is CUE that a person would keep: files by subject, names and
// comments as they were, one rule for each thing that was allowed. It loads, and
// what cannot be carried over is a problem with its place: nothing comes out then,
// or, with [Options.Partial], it comes out without it and says so in a comment,
// "// not carried over: …". What is left out never widens access: a rule whose
// condition cannot be said is left out whole.
//
// # Tailscale and headscale
//
// The file is HuJSON ([Tailscale]). Its rules are inbound packet filters:
//
//	acls and grants  a union of accepts. One rule here for each list of ports of
//	                 an entry; entries with an empty list give nothing. Where the
//	                 file has neither, everything is allowed, and a rule says so.
//	*                as a source, every node and what is behind approved subnet
//	                 routes; as a destination, the internet beyond exit nodes, too
//	ports            no protocol means TCP and UDP, and any port opens ping. "*"
//	                 is all ports of these, which service:any-port says here
//	groups, hosts    as they are; an ipset becomes the hosts that are left of it
//	addresses        mean whichever node has them (network.literalAddresses), or
//	                 what is behind an approved route
//	tagOwners        tags and their owners
//	autoApprovers    routes; 0.0.0.0/0 there approves any subnet and no exit node,
//	                 which exitNode does
//	postures         of attributes that nodes here report, too. defaultSrcPosture
//	                 stands in each rule that has none of its own
//	app              capabilities
//	tests            tests. A source or destination without nodes fails there as here
//
// Rejected as there: names that nothing defines, ports out of range, tests for
// more than one address or port, autogroup:self with sources that are not users.
// Not carried over: ssh, nodeAttrs, derpMap and other settings of clients; via;
// groups of roles ("autogroup:admin"), which only the service knows.
//
// # NetBird
//
// The file is one JSON object ([NetBird]) with the answers of the management API:
// "groups", "policies", and, where there are any, "routes", "networks" (with their
// "resources" and "routers"), "users", "posture_checks".
//
//	groups     hold machines, which here bear tags: each is a tag. A group that
//	           users get by auto_groups is a group of these users, too
//	policies   a rule for each that is enabled, in both directions where it is
//	           bidirectional. "drop" is refused: there is no rule that denies
//	All        every node
//	routes     a route via the peers' group; networks' resources become hosts
//	postures   versions of operating systems. What else they check is refused
package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// Options say what an imported file does not.
type Options struct {
	File    string // its name in problems and comments
	Name    string // of the network, a DNS label; empty means "imported"
	Domain  string // nodes are called NAME.Domain; empty means Name.mesh
	Users   string // domain of users that are written without one, as headscale's "alice@"
	Partial bool   // leave out what cannot be carried over, instead of refusing
}

func (o Options) check() (Options, error) {
	if o.Name == "" {
		o.Name = "imported"
	}
	if o.Domain == "" {
		o.Domain = o.Name + ".mesh"
	}
	if err := acl.CheckLabel("network", o.Name); err != nil {
		return o, err
	}
	if err := acl.CheckUser("user@" + o.Domain); err != nil {
		return o, fmt.Errorf("domain %q: %w", o.Domain, err)
	}
	if o.Users != "" {
		if err := acl.CheckUser("user@" + o.Users); err != nil {
			return o, fmt.Errorf("domain of users %q: %w", o.Users, err)
		}
	}
	if o.File == "" {
		o.File = "policy"
	}
	return o, nil
}

// A Result is a policy repository.
type Result struct {
	Files      []File         // sorted by name
	NotCarried model.Problems // what was left out, sorted by place; only with Options.Partial
}

// A File is one of its files.
type File struct {
	Name string
	Data []byte
}

// Write puts the files into dir, which must be missing or hold nothing but .git.
// They come there by one rename where dir is missing; otherwise what was written
// is removed again when anything fails.
func (r *Result) Write(dir string) (err error) {
	dir = filepath.Clean(dir)
	entries, err := os.ReadDir(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return err
	case slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != ".git" }):
		return fmt.Errorf("%s is not empty", dir)
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".import-*")
	if err != nil {
		return err
	}
	defer func() {
		if e := os.RemoveAll(tmp); err == nil {
			err = e
		}
	}()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	for _, f := range r.Files {
		if err := writeSynced(filepath.Join(tmp, f.Name), f.Data); err != nil {
			return err
		}
	}
	if missing {
		return os.Rename(tmp, dir)
	}
	var moved []string
	defer func() {
		if err != nil {
			for _, name := range moved {
				err = errors.Join(err, os.Remove(name))
			}
		}
	}()
	for _, f := range r.Files {
		to := filepath.Join(dir, f.Name)
		if err := os.Link(filepath.Join(tmp, f.Name), to); err != nil { // fails where there is one by now
			return err
		}
		moved = append(moved, to)
	}
	return nil
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// A trouble is what stands in the way of an import.
type trouble struct {
	opt        Options
	invalid    model.Problems // the file is not valid where it comes from
	unfit      model.Problems // it is, but cannot be carried over
	notCarried map[string][]string
}

// bad records what is wrong with the file itself.
func (t *trouble) bad(at model.Place, hint, format string, args ...any) {
	t.invalid = append(t.invalid, model.Problem{Place: at, Message: clean(fmt.Sprintf(format, args...)), Hint: hint})
}

// unfitting records what cannot be carried over, for the file of the result that it
// would be in.
func (t *trouble) unfitting(file string, at model.Place, hint, format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	t.unfit = append(t.unfit, model.Problem{Place: at, Message: text, Hint: hint})
	if t.notCarried == nil {
		t.notCarried = map[string][]string{}
	}
	note := fmt.Sprintf("not carried over: %s (%s:%d)", text, filepath.Base(t.opt.File), at.Line)
	if !slices.Contains(t.notCarried[file], note) {
		t.notCarried[file] = append(t.notCarried[file], note)
	}
}

// err is why there is no result, or nil.
func (t *trouble) err() error {
	ps := slices.Clone(t.invalid)
	if !t.opt.Partial {
		for _, p := range t.unfit {
			p.Message = "cannot be carried over: " + p.Message
			ps = append(ps, p)
		}
	}
	return ps.Err()
}

// left are what was left out.
func (t *trouble) left() model.Problems {
	var ps model.Problems
	if err := t.unfit.Err(); errors.As(err, &ps) {
		return ps
	}
	return nil
}

// Names of the files of a result.
const (
	fileNetwork  = "network.cue"
	fileGroups   = "groups.cue"
	fileTags     = "tags.cue"
	fileHosts    = "hosts.cue"
	fileServices = "services.cue"
	filePostures = "postures.cue"
	fileRoutes   = "routes.cue"
	fileRules    = "rules.cue"
	fileTests    = "tests.cue"
)

// fileOrder is the order in which a result names its files.
var fileOrder = []string{
	fileNetwork, fileGroups, fileTags, fileHosts, fileServices, filePostures, fileRoutes, fileRules, fileTests,
}

// A names gives things of one kind names that this schema allows, each to one.
type names struct {
	kind string
	of   map[string]string // by the name there
	used map[string]bool
}

func newNames(kind string) *names {
	return &names{kind: kind, of: map[string]string{}, used: map[string]bool{}}
}

// name is the name here of what is called so there.
func (n *names) name(there string) string {
	if got, ok := n.of[there]; ok {
		return got
	}
	here := there
	if acl.CheckName(n.kind, here) != nil {
		here = slug(there)
	}
	here = n.unique(here)
	n.of[there] = here
	return here
}

// unique takes a name, with a number behind it where it is taken.
func (n *names) unique(name string) string {
	if name == "" {
		name = n.kind
	}
	out := name
	for i := 2; n.used[out]; i++ {
		out = fmt.Sprintf("%s-%d", name, i)
	}
	n.used[out] = true
	return out
}

// slug is a text as a name: lower-case letters and digits with '-' between them.
func slug(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			b.WriteRune(r)
		case r == '\'' || r == '’':
		default:
			if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
				b.WriteByte('-')
			}
		}
		if b.Len() >= maxSlug {
			break
		}
	}
	return strings.Trim(b.String(), "-")
}

// maxSlug bounds names made of texts; the schema allows more.
const maxSlug = 100
