package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/token"

	"github.com/writmesh/writ/coordinator/acl"
)

// A file in teams/NAME/ belongs to the team NAME, which the network's own files
// list under "teams" with the scope of its rules. Whoever may change that folder
// and nothing else can give access to what is in the scope, and to nothing else:
//
//   - Only rules, tests, groups, hosts and services stand there; groups, hosts and
//     services under "NAME/".
//   - Each destination of a rule is in the scope.
//   - What the scope itself names is not the team's, or any team's, to define.
//   - The files are plain data. CUE makes one value of all files, in which a
//     pattern, a reference or a default reaches far; none of it can be written
//     there.
//   - What the network's own files evaluate to is the same without the files of
//     teams. They can constrain or complete what a team writes, never depend on it.
//
// Who may be the source of a team's rules, and who is in its groups, is the team's
// to say. Where the network's own rules name a team's group, host or service, the
// network lets the team say what that is.

// teamFields are the fields that a team writes, and whether their names begin
// with the team's.
var teamFields = map[string]bool{"groups": true, "hosts": true, "services": true, "rules": false, "tests": false}

// teamOf is the team that the file belongs to; empty for the network's own files.
func teamOf(file string) string {
	rest, ok := strings.CutPrefix(file, "teams/")
	if !ok {
		return ""
	}
	team, _, _ := strings.Cut(rest, "/")
	return team
}

// checkTeamFile refuses what no team may write, from the syntax alone.
func checkTeamFile(f *ast.File, team string) Problems {
	var ps Problems
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.Package, *ast.CommentGroup:
		case *ast.Field:
			if not := plainField(d); not != nil {
				ps = append(ps, notPlain(not))
				continue
			}
			block, _ := plainName(d.Label)
			prefixed, known := teamFields[block]
			if !known {
				ps = append(ps, Problem{Place: placeOf(d.Label.Pos()),
					Message: fmt.Sprintf("%s is not for teams to write", quoteName(block)),
					Hint:    "a team writes rules, tests, groups, hosts and services; the rest is the network's own, outside teams/"})
				continue
			}
			entries, ok := d.Value.(*ast.StructLit)
			if !ok || !prefixed {
				continue // the shape says what is wrong
			}
			for _, e := range entries.Elts {
				entry, ok := e.(*ast.Field)
				if !ok {
					continue
				}
				name, _ := plainName(entry.Label)
				if rest, ok := strings.CutPrefix(name, team+"/"); !ok || rest == "" {
					ps.Add(placeOf(entry.Label.Pos()), "%s: the %s of team %s have names under %s",
						subject(strings.TrimSuffix(block, "s"), name), block, quoteName(team), quoteName(team+"/"))
				}
			}
		default:
			ps = append(ps, notPlain(d))
		}
	}
	return ps
}

// notPlain says what is wrong with what is no plain data.
func notPlain(n ast.Node) Problem {
	what := "an expression"
	switch n := n.(type) {
	case *ast.Ident:
		what = "a reference"
		if strings.HasPrefix(n.Name, "_") || strings.HasPrefix(n.Name, "#") {
			what = "a hidden field or definition"
		}
	case *ast.SelectorExpr, *ast.IndexExpr:
		what = "a reference"
	case *ast.Interpolation, *ast.ParenExpr:
		what = "a computed text or value"
	case *ast.ListLit:
		what = "a pattern" // as a label
	case *ast.Comprehension:
		what = "a comprehension"
	case *ast.EmbedDecl:
		what = "an embedding"
	case *ast.LetClause:
		what = "a let clause"
	case *ast.Alias:
		what = "an alias"
	case *ast.Ellipsis:
		what = "an ellipsis"
	case *ast.CallExpr:
		what = "a call"
	case *ast.BinaryExpr:
		what = "an operator"
	case *ast.BasicLit:
		what = "a name in another form than it is read"
	case *ast.Field:
		what = "a constraint, alias or attribute"
		if n.Constraint != token.ILLEGAL {
			what = "a constraint"
		}
	}
	return Problem{Place: placeOf(n.Pos()), Message: what + ": the files of a team are plain data",
		Hint: "write names and texts as they are; what is computed or shared belongs to the network's own files"}
}

// teamsApart holds that v, which all files evaluate to, is what the network's own
// files evaluate to alone, and beside it what the teams write.
func (s *syntax) teamsApart(v *value) error {
	var own []source
	for _, src := range s.sources {
		if teamOf(src.name) == "" {
			own = append(own, src)
		}
	}
	alone, err := parseFiles(own)
	if err != nil {
		return err
	}
	without, err := evaluate(alone)
	if err != nil {
		if ps, ok := err.(Problems); ok {
			for i := range ps {
				if ps[i].Hint == "" {
					ps[i].Hint = "the network's own files are evaluated without those of teams, too, and depend on nothing in them"
				}
			}
		}
		return err
	}
	var ps Problems
	const hint = "what the network's own files say depends on nothing that teams write"
	for _, block := range v.fields {
		was := without.field(block.name)
		if block.value.kind != kindStruct || was != nil && was.kind != kindStruct {
			if was == nil || !same(block.value, was) {
				ps = append(ps, Problem{Place: block.value.place, Message: pathText([]string{block.name}) + " is another with the files of teams", Hint: hint})
			}
			continue
		}
		for _, entry := range block.value.fields {
			path := []string{block.name, entry.name}
			var before *value
			if was != nil {
				before = was.field(entry.name)
			}
			switch team := s.writtenBy(path); {
			case team != "" && before != nil:
				ps = append(ps, Problem{Place: s.labels[strings.Join(path, "\x00")][0], Also: []Place{before.place},
					Message: fmt.Sprintf("%s is written by team %s, and by the network's own files", pathText(path), quoteName(team)), Hint: "a name is written in one place"})
			case team == "" && (before == nil || !same(entry.value, before)):
				ps = append(ps, Problem{Place: entry.value.place, Message: pathText(path) + " is another with the files of teams", Hint: hint})
			}
		}
	}
	for _, block := range without.fields {
		is := v.field(block.name)
		for _, entry := range block.value.fields {
			if is == nil || is.kind == kindStruct && is.field(entry.name) == nil {
				ps = append(ps, Problem{Place: entry.value.place, Message: pathText([]string{block.name, entry.name}) + " is not there with the files of teams", Hint: hint})
			}
		}
	}
	return ps.Err()
}

// writtenBy is the team in whose files the path is written; empty for none.
func (s *syntax) writtenBy(path []string) string {
	for _, at := range s.labels[strings.Join(path, "\x00")] {
		if team := teamOf(at.File); team != "" {
			return team
		}
	}
	return ""
}

// same reports whether two values are alike wherever they are written.
func same(a, b *value) bool {
	return a.kind == b.kind && a.str == b.str && a.yes == b.yes && string(a.json) == string(b.json) &&
		slices.EqualFunc(a.items, b.items, same) &&
		slices.EqualFunc(a.fields, b.fields, func(x, y field) bool { return x.name == y.name && same(x.value, y.value) })
}

// checkTeams checks what teams write against their scopes, and fills in whose each
// rule is. P is checked otherwise.
func (p *Policy) checkTeams(files map[string]bool) error {
	c := teamCheck{own: p.Network.Prefix4, teams: map[string]*Team{}, groups: map[string]*Group{}, hosts: map[string]*Host{}}
	for i := range p.Groups {
		c.groups[p.Groups[i].Name] = &p.Groups[i]
	}
	for i := range p.Hosts {
		c.hosts[p.Hosts[i].Name] = &p.Hosts[i]
	}
	names := make([]string, 0, len(p.Teams))
	for i := range p.Teams {
		t := &p.Teams[i]
		c.teams[t.Name] = t
		names = append(names, t.Name)
		if strings.Contains(t.Name, "/") {
			c.problems.Add(t.Place, "%s: a team is one folder in teams/, and its name has no slash", subject("team", t.Name))
		}
		for _, ref := range t.Scope {
			c.scope(t, ref)
		}
	}
	for file := range files {
		if team := teamOf(file); team != "" && c.teams[team] == nil {
			c.problems = append(c.problems, Problem{Place: Place{File: file},
				Message: fmt.Sprintf("unknown team %s%s", quoteName(team), didYouMean(nearest(team, names))),
				Hint:    `the network's own files list teams: teams: NAME: scope: ["tag:…"]`})
		}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Team = teamOf(r.Place.File); r.Team == "" || c.teams[r.Team] == nil {
			continue
		}
		for _, to := range r.To {
			if !c.covers(c.teams[r.Team], to) {
				c.problems = append(c.problems, Problem{Place: to.Place, Also: []Place{c.teams[r.Team].Place},
					Message: fmt.Sprintf("%s: %s is not in the scope of team %s: %s", subject("rule", r.Name), to, quoteName(r.Team), c.text(r.Team)),
					Hint:    "a team gives access to what is in its scope; other rules are the network's own, outside teams/"})
			}
		}
	}
	return c.problems.Err()
}

type teamCheck struct {
	own      netip.Prefix // of the network's nodes
	teams    map[string]*Team
	groups   map[string]*Group
	hosts    map[string]*Host
	problems Problems
}

func (c *teamCheck) text(team string) string {
	const most = 5
	var names []string
	for _, ref := range c.teams[team].Scope {
		if len(names) == most {
			names = append(names, "…")
			break
		}
		names = append(names, ref.String())
	}
	return strings.Join(names, ", ")
}

// scope holds that no team defines what a scope means.
func (c *teamCheck) scope(t *Team, ref Ref) {
	not := func(what string, at Place) {
		c.problems = append(c.problems, Problem{Place: ref.Place, Also: []Place{at},
			Message: fmt.Sprintf("%s: %s is defined by a team, and a scope by none", subject("team", t.Name), what),
			Hint:    "define it in the network's own files, outside teams/"})
	}
	seen := map[string]bool{}
	var group func(name string)
	group = func(name string) {
		g := c.groups[name]
		if g == nil || seen[name] {
			return
		}
		seen[name] = true
		if teamOf(g.Place.File) != "" {
			not("group:"+name, g.Place)
			return
		}
		for _, m := range g.Members {
			if m.Selector.Kind == acl.KindGroup {
				group(m.Selector.Name)
			}
		}
	}
	switch s := ref.Selector; s.Kind {
	case acl.KindGroup:
		group(s.Name)
	case acl.KindHost:
		if h := c.hosts[s.Name]; h != nil && teamOf(h.Place.File) != "" {
			not(s.String(), h.Place)
		}
	}
}

// covers reports whether all that to selects is in the team's scope. A selector
// covers itself, and addresses those within them; what else may be a part of what
// is not looked into, since it can change. An address of the network is a node, and
// no part of "0.0.0.0/0", which is what lies behind subnet routers. What to excepts
// makes it no larger.
func (c *teamCheck) covers(t *Team, to Ref) bool {
	within, isAddress := c.prefix(to.Selector)
	return slices.ContainsFunc(t.Scope, func(ref Ref) bool {
		if ref.Selector == to.Selector { // a scope has no exceptions
			return true
		}
		outer, ok := c.prefix(ref.Selector)
		if !ok || !isAddress || outer.Bits() > within.Bits() || !outer.Contains(within.Addr()) {
			return false
		}
		return c.outside(within) || c.inside(outer)
	})
}

// outside reports whether no node of the network can have an address in p.
func (c *teamCheck) outside(p netip.Prefix) bool {
	return !(c.own.IsValid() && c.own.Overlaps(p)) && !uniqueLocal.Overlaps(p)
}

// inside reports whether p holds nothing but addresses of nodes, as far as Git
// says which those are.
func (c *teamCheck) inside(p netip.Prefix) bool {
	for _, own := range []netip.Prefix{c.own, uniqueLocal} {
		if own.IsValid() && own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// prefix are the addresses that a selector names.
func (c *teamCheck) prefix(s acl.Selector) (netip.Prefix, bool) {
	switch s.Kind {
	case acl.KindPrefix:
		p := s.Prefix()
		return p, p.IsValid()
	case acl.KindHost:
		if h := c.hosts[s.Name]; h != nil {
			return h.Prefix, h.Prefix.IsValid()
		}
	}
	return netip.Prefix{}, false
}
