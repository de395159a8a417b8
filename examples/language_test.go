package examples

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/acl"
	"github.com/writmesh/writ/cue/model"
	"github.com/writmesh/writ/policy/compile"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/tester"
)

// languageAt is when the tests of the language's examples are run.
var languageAt = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestLanguageExamples holds that the tests of each example pass, and that they
// would not if the construct that it is about did nothing, or a rule were gone.
func TestLanguageExamples(t *testing.T) {
	for _, row := range []struct {
		dir     string
		without map[string]func(p *model.Policy) // what is taken away, and how
	}{
		{"bulk", map[string]func(p *model.Policy){
			"the lists": func(p *model.Policy) { eachMember(p, func(model.Member) bool { return false }) },
		}},
		{"capabilities", map[string]func(p *model.Policy){
			"that they open no port": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { r.Allow = []model.PortRef{{Text: "*"}} }) },
		}},
		{"definitions", nil},
		{"except", map[string]func(p *model.Policy){
			"exceptions of sources": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { plain(r.From) }) },
			"exceptions of destinations": func(p *model.Policy) {
				eachRule(p, func(r *model.Rule) { plain(r.To) })
			},
		}},
		{"exit", map[string]func(p *model.Policy){
			"exit": func(p *model.Policy) { p.Exit = nil },
		}},
		{"groups", map[string]func(p *model.Policy){
			"groups in groups": func(p *model.Policy) {
				eachMember(p, func(m model.Member) bool { return m.Selector.Kind != acl.KindGroup })
			},
			"tags in groups": func(p *model.Policy) {
				eachMember(p, func(m model.Member) bool { return m.Selector.Kind != acl.KindTag })
			},
			"ends": endless,
		}},
		{"hours", map[string]func(p *model.Policy){
			"hours": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { r.Hours = nil }) },
			"time zones": func(p *model.Policy) {
				eachRule(p, func(r *model.Rule) {
					for i := range r.Hours {
						r.Hours[i].Zone = "UTC"
					}
				})
			},
		}},
		{"identity", map[string]func(p *model.Policy){
			"claims": func(p *model.Policy) {
				eachMember(p, func(m model.Member) bool { return m.Selector.Kind != acl.KindClaim })
			},
			"ends": endless,
		}},
		{"nodes", map[string]func(p *model.Policy){
			"pins": func(p *model.Policy) { p.Nodes = nil },
		}},
		{"ports", map[string]func(p *model.Policy){
			"all but the first port": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { r.Allow = r.Allow[:1] }) },
		}},
		{"posture", map[string]func(p *model.Policy){
			"posture":        func(p *model.Policy) { eachRule(p, func(r *model.Rule) { r.Posture = nil }) },
			"one of the two": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { r.Posture = r.Posture[:1] }) },
			"all but one attribute": func(p *model.Policy) {
				for i := range p.Postures {
					p.Postures[i].Conditions = p.Postures[i].Conditions[:1]
				}
			},
		}},
		{"routes", map[string]func(p *model.Policy){
			"routes":     func(p *model.Policy) { p.Routes = nil },
			"exceptions": func(p *model.Policy) { eachRule(p, func(r *model.Rule) { plain(r.To) }) },
		}},
		{"selectors", nil},
		{"services", map[string]func(p *model.Policy){
			"services in services": func(p *model.Policy) {
				for i := range p.Services {
					s := &p.Services[i]
					s.Ports = slices.DeleteFunc(s.Ports, func(r model.PortRef) bool { return r.Text == "service:monitored" })
				}
			},
		}},
		{"teams", nil},
		{"tests", nil},
		{"until", map[string]func(p *model.Policy){
			"the end": endless,
		}},
	} {
		t.Run(row.dir, func(t *testing.T) {
			if failed := languageTests(t, loadExample(t, row.dir)); failed != "" {
				t.Fatalf("a test fails: %s", failed)
			}
			for what, take := range row.without {
				p := loadExample(t, row.dir)
				take(p)
				if languageTests(t, p) == "" {
					t.Errorf("every test passes without %s", what)
				}
			}
			for i, r := range loadExample(t, row.dir).Rules {
				if len(r.Ports) == 0 {
					continue // it gives no access
				}
				p := loadExample(t, row.dir)
				p.Rules = slices.Delete(p.Rules, i, i+1)
				if languageTests(t, p) == "" {
					t.Errorf("every test passes without rule %q", r.Name)
				}
			}
		})
	}
}

func loadExample(t *testing.T, dir string) *model.Policy {
	t.Helper()
	p, err := model.Load(os.DirFS(filepath.Join("language", dir)))
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	return p
}

// languageTests says which test fails first, or what is wrong before any is run;
// nothing when all pass.
func languageTests(t *testing.T, p *model.Policy) string {
	t.Helper()
	if err := p.Check(); err != nil {
		return err.Error()
	}
	leaves, err := compile.Leaves(p)
	if err != nil {
		return err.Error()
	}
	c, err := reach.Read(leaves)
	if err != nil {
		t.Fatal(err)
	}
	result := tester.Run(p, c, nil, languageAt)
	for _, test := range result.Tests {
		for _, f := range test.Failures {
			return f.Text
		}
	}
	if !result.OK() {
		return "no test"
	}
	return ""
}

func eachRule(p *model.Policy, f func(r *model.Rule)) {
	for i := range p.Rules {
		f(&p.Rules[i])
	}
}

// eachMember keeps the members that keep wants.
func eachMember(p *model.Policy, keep func(m model.Member) bool) {
	for i := range p.Groups {
		g := &p.Groups[i]
		g.Members = slices.DeleteFunc(g.Members, func(m model.Member) bool { return !keep(m) })
	}
}

// endless takes the ends of rules and memberships away.
func endless(p *model.Policy) {
	eachRule(p, func(r *model.Rule) { r.Until = time.Time{} })
	for i := range p.Groups {
		for j := range p.Groups[i].Members {
			p.Groups[i].Members[j].Until = time.Time{}
		}
	}
}

// plain takes exceptions away.
func plain(refs []model.Ref) {
	for i := range refs {
		refs[i].Except = nil
	}
}
