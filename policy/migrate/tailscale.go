package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writmesh/writ/coordinator/acl"
)

// Tailscale imports a policy file of Tailscale or headscale. The error is
// model.Problems where the file is at fault.
func Tailscale(src []byte, o Options) (*Result, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	root, err := parse(o.File, src)
	if err != nil {
		return nil, err
	}
	t := &tailscale{
		maker: newMaker(o), root: root, groups: map[string]*value{}, tags: map[string]*value{},
		hosts: map[string]netip.Prefix{}, ipsets: map[string]*ipset{}, postures: map[string]bool{},
	}
	// Routes may have been approved by hand, and addresses are whoever's has them.
	t.draft.literal = true
	t.run()
	return t.result()
}

// tailscale is an import under way.
type tailscale struct {
	*maker
	root *value

	groups   map[string]*value // the lists of members, by "group:NAME"
	tags     map[string]*value // the lists of owners, by "tag:NAME"
	hosts    map[string]netip.Prefix
	ipsets   map[string]*ipset
	postures map[string]bool // those carried over, by "posture:NAME"
	standard []string        // defaultSrcPosture, as names here
	noRules  bool            // what rules need could not be carried over
	leftOut  []rule          // what could not be carried over, as far as it is understood
}

// The fields of the file, by what becomes of them.
var (
	carried = []string{
		"acls", "grants", "groups", "hosts", "tagOwners", "ipsets", "autoApprovers", "tests", "postures", "defaultSrcPosture",
	}
	settings = map[string]string{ // of the service or its clients, and what to do instead
		"ssh":                 "rules here are about packets; write a rule to tcp/22 and keep sshd's own accounts",
		"sshTests":            "there are no rules about SSH",
		"nodeAttrs":           "settings of clients are not policy here",
		"derpMap":             `relays are written under "relays"`,
		"disableIPv4":         "every node has both addresses",
		"OneCGNATRoute":       "agents choose their routes themselves",
		"randomizeClientPort": "agents choose their ports themselves",
		"extraDNSRecords":     "names of nodes are NAME.domain",
	}
)

// sections are the files that fields of the file become.
var sections = map[string]string{
	"acls": fileRules, "grants": fileRules, "groups": fileGroups, "hosts": fileHosts, "ipsets": fileHosts, "tagOwners": fileTags,
	"autoApprovers": fileRoutes, "tests": fileTests, "postures": filePostures, "defaultSrcPosture": filePostures,
}

// section keeps the comments above a field. Those between its rules go elsewhere.
func (t *tailscale) section(file string, v *value) {
	if t.draft.sections == nil {
		t.draft.sections = map[string][]string{}
	}
	t.draft.sections[file] = append(t.draft.sections[file], v.comments...)
	if file != fileRules {
		t.draft.sections[file] = append(t.draft.sections[file], v.inside...)
	}
}

// everything is what "*" means as a source, and as a destination.
var (
	everySource      = []string{"*", "0.0.0.0/0", "::/0"}
	everyDestination = []string{"*", "0.0.0.0/0", "::/0", "autogroup:internet"}
)

func (t *tailscale) run() {
	r := t.root
	if r.kind != '{' {
		t.bad(r.place, "a policy file is one object, such as {\"acls\": []}", "want an object")
		return
	}
	t.draft.header = append(slices.Clone(r.comments), r.inside...)
	for _, m := range r.members {
		name := canonical(m.name)
		switch hint, setting := settings[name]; {
		case slices.Contains(carried, name):
			t.section(sections[name], m.value)
		case setting && m.value.empty():
		case setting:
			file := fileNetwork
			if strings.HasPrefix(name, "ssh") {
				file = fileRules
			}
			t.unfitting(file, m.place, hint, "%q", m.name)
		default:
			t.bad(m.place, "", "unknown field %q%s", m.name, didYouMean(m.name, append(slices.Clone(carried), "ssh", "nodeAttrs")))
		}
	}
	t.readTagOwners() // names first, then what refers to them
	t.readGroups()
	t.readHosts()
	t.readIPSets()
	t.readPostures()
	t.writeGroups()
	t.writeTags()
	t.readAutoApprovers()
	t.readRules()
	t.readTests()
}

// canonical is a field's name as it is usually written; case does not matter.
func canonical(name string) string {
	for _, c := range carried {
		if strings.EqualFold(c, name) {
			return c
		}
	}
	for c := range settings {
		if strings.EqualFold(c, name) {
			return c
		}
	}
	return name
}

func (t *tailscale) readTagOwners() {
	for _, m := range t.object(t.root.field("tagOwners"), "tagOwners") {
		name, ok := strings.CutPrefix(m.name, "tag:")
		if !ok || name == "" {
			t.bad(m.place, `write "tag:NAME"`, "tagOwners: %q is not a tag", m.name)
			continue
		}
		if c := name[0] | 0x20; c < 'a' || c > 'z' {
			t.bad(m.place, "", "tagOwners: %q: names of tags begin with a letter", m.name)
			continue
		}
		t.tags[m.name] = m.value
		t.tagNames.name(name)
	}
}

func (t *tailscale) readGroups() {
	for _, m := range t.object(t.root.field("groups"), "groups") {
		name, ok := strings.CutPrefix(m.name, "group:")
		if !ok || name == "" {
			t.bad(m.place, `write "group:NAME"`, "groups: %q is not a group", m.name)
			continue
		}
		t.groups[m.name] = m.value
		t.groupNames.name(name)
	}
}

func (t *tailscale) readHosts() {
	for _, m := range t.object(t.root.field("hosts"), "hosts") {
		v := m.value
		if v.kind != '"' {
			t.bad(v.place, "", "hosts: %q: want an address or a prefix", m.name)
			continue
		}
		if strings.ContainsAny(m.name, "@:*/ \t") || m.name == "" {
			t.bad(m.place, "", "hosts: %q cannot be a host's name", m.name)
			continue
		}
		p, err := address(v.str)
		if err != nil {
			t.bad(v.place, "", "hosts: %q: %v", m.name, err)
			continue
		}
		t.hosts[m.name] = p
		t.draft.hosts = append(t.draft.hosts, host{name: t.hostNames.name(m.name), comments: v.all(), prefix: p})
	}
}

// address reads an address or a prefix, which may have bits beyond its length.
func address(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// user is the address of a user as it is written here.
func (t *tailscale) user(v *value, file, what string) (string, bool) {
	s := strings.ToLower(v.str)
	if rest, ok := strings.CutSuffix(s, "@"); ok && rest != "" {
		if t.opt.Users == "" {
			t.unfitting(file, v.place, "name the domain of such users with --users", "%s: user %q has no domain", what, v.str)
			return "", false
		}
		s = rest + "@" + t.opt.Users
	}
	if strings.HasPrefix(s, "user:") || strings.HasPrefix(s, "*@") {
		t.unfitting(file, v.place, "write a group of these users and name it instead", "%s: %q, all users of a domain", what, v.str)
		return "", false
	}
	if err := acl.CheckUser(s); err != nil {
		t.bad(v.place, "", "%s: %v", what, err)
		return "", false
	}
	return s, true
}

func (t *tailscale) writeGroups() {
	for _, m := range t.object(t.root.field("groups"), "groups") {
		if t.groups[m.name] != m.value {
			continue
		}
		g := group{name: t.groupNames.name(strings.TrimPrefix(m.name, "group:")), comments: append(slices.Clone(m.value.comments), m.value.inside...)}
		if "group:"+g.name != m.name {
			g.comments = append(g.comments, "Was "+clean(m.name)+".")
		}
		seen := map[string]bool{}
		for _, v := range t.texts(m.value, m.name) {
			switch {
			case strings.HasPrefix(v.str, "group:"):
				t.bad(v.place, "list the members of the inner group", "%s: %q: groups are not members of groups", m.name, v.str)
				continue
			case strings.HasPrefix(v.str, "autogroup:"):
				t.unfitting(fileGroups, v.place, "list its users", "%s: %q, a group of roles", m.name, v.str)
				continue
			case !strings.Contains(v.str, "@"):
				t.bad(v.place, "members are users, such as alice@example.com", "%s: %q is not a user", m.name, v.str)
				continue
			}
			user, ok := t.user(v, fileGroups, m.name)
			if !ok {
				continue
			}
			if seen[user] {
				g.comments = append(g.comments, v.comments...)
				continue
			}
			seen[user] = true
			g.members = append(g.members, entryText{text: user, comments: v.comments})
		}
		t.draft.groups = append(t.draft.groups, g)
	}
}

func (t *tailscale) writeTags() {
	for _, m := range t.object(t.root.field("tagOwners"), "tagOwners") {
		if t.tags[m.name] != m.value {
			continue
		}
		g := tag{name: t.tagNames.name(strings.TrimPrefix(m.name, "tag:")), comments: m.value.all()}
		for _, v := range t.texts(m.value, "tagOwners: "+m.name) {
			what := "tagOwners: " + m.name
			switch {
			case strings.HasPrefix(v.str, "autogroup:"):
				t.unfitting(fileTags, v.place, "write a group of these users as the owner", "%s: owner %q, a group of roles", what, v.str)
			case strings.HasPrefix(v.str, "group:"), strings.HasPrefix(v.str, "tag:"), strings.Contains(v.str, "@"):
				if owners, ok := t.name(v, fileTags, what); ok && owners != "tag:"+g.name && !slices.Contains(g.owners, owners) {
					g.owners = append(g.owners, owners)
				}
			default:
				t.bad(v.place, "owners are users, groups and tags", "%s: %q owns no tags", what, v.str)
			}
		}
		t.draft.tags = append(t.draft.tags, g)
	}
}

// name is a user, group or tag as it is written here.
func (t *tailscale) name(v *value, file, what string) (string, bool) {
	s := v.str
	switch {
	case strings.HasPrefix(s, "group:"):
		if _, ok := t.groups[s]; !ok {
			t.bad(v.place, "", "%s: group not found: %q%s", what, s, didYouMean(s, keys(t.groups)))
			return "", false
		}
		return "group:" + t.groupNames.name(strings.TrimPrefix(s, "group:")), true
	case strings.HasPrefix(s, "tag:"):
		if _, ok := t.tags[s]; !ok {
			t.bad(v.place, "tags are defined under tagOwners", "%s: tag not found: %q%s", what, s, didYouMean(s, keys(t.tags)))
			return "", false
		}
		return "tag:" + t.tagNames.name(strings.TrimPrefix(s, "tag:")), true
	default:
		return t.user(v, file, what)
	}
}

func (t *tailscale) readAutoApprovers() {
	v := t.root.field("autoApprovers")
	for _, m := range t.object(v, "autoApprovers") {
		switch strings.ToLower(m.name) {
		case "routes":
			t.approvedRoutes(m.value)
		case "exitnode":
			t.approvedExit(m.value)
		case "services":
			if !m.value.empty() {
				t.unfitting(fileRoutes, m.place, "write a rule to the nodes that serve", "autoApprovers.services")
			}
		default:
			t.bad(m.place, "", "autoApprovers: unknown field %q%s", m.name, didYouMean(m.name, []string{"routes", "exitNode", "services"}))
		}
	}
}

func (t *tailscale) approvedRoutes(v *value) {
	byPrefix := map[netip.Prefix]int{}
	for _, m := range t.object(v, "autoApprovers.routes") {
		what := fmt.Sprintf("autoApprovers.routes[%q]", m.name)
		p, err := address(m.name)
		if err != nil {
			t.bad(m.place, "", "autoApprovers.routes: %v", err)
			continue
		}
		via := t.approvers(m.value, what)
		comments := m.value.all()
		if p.Bits() == 0 {
			comments = append(comments, "Any subnet; no exit node.")
		}
		switch i, there := byPrefix[p]; {
		case there:
			r := &t.draft.routes[i]
			r.comments = append(r.comments, comments...)
			for _, a := range via {
				if !slices.Contains(r.via, a) {
					r.via = append(r.via, a)
				}
			}
		case len(via) > 0:
			byPrefix[p] = len(t.draft.routes)
			t.draft.routes = append(t.draft.routes, route{prefix: p, comments: comments, via: via})
		}
	}
}

func (t *tailscale) approvedExit(v *value) {
	if via := t.approvers(v, "autoApprovers.exitNode"); len(via) > 0 {
		t.draft.exit = &route{comments: v.all(), via: via}
	}
}

func (t *tailscale) approvers(v *value, what string) (out []string) {
	for _, a := range t.texts(v, what) {
		switch {
		case a.str == "autogroup:member" || a.str == "autogroup:tagged":
			out = append(out, a.str)
		case strings.HasPrefix(a.str, "autogroup:"):
			t.unfitting(fileRoutes, a.place, "write a group of these users", "%s: %q, a group of roles", what, a.str)
		case strings.HasPrefix(a.str, "group:"), strings.HasPrefix(a.str, "tag:"), strings.Contains(a.str, "@"):
			if name, ok := t.name(a, fileRoutes, what); ok && !slices.Contains(out, name) {
				out = append(out, name)
			}
		default:
			t.bad(a.place, "approvers are users, groups and tags", "%s: %q approves nothing", what, a.str)
		}
	}
	return out
}
