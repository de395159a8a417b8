package lint

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
)

// uses are the names that a policy writes somewhere else than where it defines
// them.
type uses struct {
	selectors map[acl.Selector]bool
	services  map[string]bool
	postures  map[string]bool
}

func usesOf(p *model.Policy) *uses {
	u := &uses{selectors: map[acl.Selector]bool{}, services: map[string]bool{}, postures: map[string]bool{}}
	refs := func(lists ...[]model.Ref) {
		for _, list := range lists {
			for _, r := range list {
				u.selectors[r.Selector] = true
				for _, e := range r.Except {
					u.selectors[e.Selector] = true
				}
			}
		}
	}
	ports := func(list []model.PortRef) {
		for _, r := range list {
			if name, ok := strings.CutPrefix(r.Text, "service:"); ok {
				u.services[name] = true
			}
		}
	}
	refs(p.Admins)
	for _, g := range p.Groups {
		for _, m := range g.Members {
			u.selectors[m.Selector] = true
		}
	}
	for _, t := range p.Tags {
		refs(t.Owners)
	}
	for _, s := range p.Services {
		ports(s.Ports)
	}
	for _, r := range p.Routes {
		refs(r.Via)
	}
	if p.Exit != nil {
		refs(p.Exit.Via)
	}
	for _, t := range p.Teams {
		refs(t.Scope)
	}
	for _, r := range p.Rules {
		refs(r.From, r.To)
		ports(r.Allow)
		for _, n := range r.Posture {
			u.postures[n.Name] = true
		}
		if s, err := acl.ParseSelector(r.Owner); err == nil {
			u.selectors[s] = true
		}
	}
	for _, t := range p.Tests {
		for _, list := range [][]model.Assertion{t.Allow, t.Deny} {
			for _, a := range list {
				refs(a.From, a.To)
				ports(a.On)
			}
		}
		for _, o := range t.Only {
			refs(o.From, o.To)
			ports(o.On)
		}
	}
	for _, e := range p.Enrolment {
		refs(e.Tags)
	}
	for _, n := range p.Nodes {
		refs(n.Tags)
	}
	return u
}

// regoName is a selector of a name in Rego's text.
var regoName = regexp.MustCompile(`["` + "`" + `](group|tag|host|service|posture):[^"` + "`" + `\s]+["` + "`" + `]`)

// namedInRego are the names that guards and generators write out: a guard asks for
// the approval of a group that nothing else may name.
func (l *linter) namedInRego() map[string]bool {
	out := map[string]bool{}
	for _, dir := range []string{"guard", "generate"} {
		if l.Tree == nil {
			break
		}
		// A tree that cannot be read was refused before.
		_ = fs.WalkDir(l.Tree, dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || path.Ext(name) != ".rego" {
				return nil
			}
			text, err := fs.ReadFile(l.Tree, name)
			for _, found := range regoName.FindAllString(string(text), -1) {
				out[found[1:len(found)-1]] = true
			}
			return err
		})
	}
	return out
}

// unused finds what is defined and named nowhere.
func (l *linter) unused() {
	u := usesOf(l.Policy)
	named := l.namedInRego()
	say := func(kind, name string, place model.Place, used bool) {
		if !used && !named[kind+":"+name] {
			l.add(Finding{ID: "unused-" + kind, Level: Note, Place: place, Text: fmt.Sprintf("nothing names %s:%s", kind, name), Hint: "take it away"})
		}
	}
	for _, g := range l.Policy.Groups {
		say("group", g.Name, g.Place, u.selectors[acl.Selector{Kind: acl.KindGroup, Name: g.Name}])
	}
	for _, t := range l.Policy.Tags {
		say("tag", t.Name, t.Place, u.selectors[acl.Selector{Kind: acl.KindTag, Name: t.Name}])
	}
	for _, h := range l.Policy.Hosts {
		say("host", h.Name, h.Place, u.selectors[acl.Selector{Kind: acl.KindHost, Name: h.Name}])
	}
	for _, s := range l.Policy.Services {
		say("service", s.Name, s.Place, u.services[s.Name])
	}
	for _, p := range l.Policy.Postures {
		say("posture", p.Name, p.Place, u.postures[p.Name])
	}
}

// empty finds selectors that select nobody beside others that do: where all do, the
// rule is dead, and that is said.
func (l *linter) empty() {
	for _, r := range l.Policy.Rules {
		if ended(r.Until, l.At) || l.nobody(r.From) != "" || l.nobody(r.To) != "" {
			continue
		}
		for _, side := range [][]model.Ref{r.From, r.To} {
			for _, ref := range side {
				if text := l.nobody([]model.Ref{ref}); text != "" {
					l.add(Finding{ID: "empty-selector", Level: Warning, Place: ref.Place, Text: fmt.Sprintf("rule %q: %s", r.Name, text)})
				}
			}
		}
	}
}
