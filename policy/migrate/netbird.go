package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NetBird imports what the management API answers. The error is model.Problems
// where the file is at fault.
func NetBird(src []byte, o Options) (*Result, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	root, err := parse(o.File, src)
	if err != nil {
		return nil, err
	}
	n := &netbird{
		maker: newMaker(o), root: root, byID: map[string]*peerGroup{}, resources: map[string]*resource{}, postures: map[string][]string{},
	}
	n.run()
	return n.result()
}

// netbird is an import under way.
type netbird struct {
	*maker
	root      *value
	byID      map[string]*peerGroup
	order     []*peerGroup
	resources map[string]*resource // by id; of networks
	postures  map[string][]string  // names here of what a check becomes, by id
}

// A peerGroup is a group there: machines, people whose machines are in it, and
// addresses behind routers.
type peerGroup struct {
	id, name  string
	value     *value
	everybody bool     // the group of all
	users     []string // who get it by auto_groups
	machines  bool     // others bear it as a tag
	behind    []string // selectors of hosts in it
	group     string   // its names here, where it has them
	tag       string
}

// A resource is an address behind a router.
type resource struct{ selector string }

// The fields of the file.
var exported = []string{"groups", "policies", "routes", "networks", "users", "peers", "posture_checks"}

func (n *netbird) run() {
	if n.root.kind != '{' {
		n.bad(n.root.place, `{"groups": [...], "policies": [...]}`, "want one object with the answers of the management API")
		return
	}
	n.draft.header = append(slices.Clone(n.root.comments), n.root.inside...)
	for _, m := range n.root.members {
		if !slices.Contains(exported, m.name) {
			n.bad(m.place, "", "unknown field %q%s", m.name, didYouMean(m.name, exported))
		}
	}
	if n.root.field("policies").absent() {
		n.bad(n.root.place, "GET /api/policies", "there are no policies")
	}
	n.readGroups()
	n.readPeople()
	n.nameGroups()
	n.readNetworks()
	n.readRoutes()
	n.readPostures()
	n.readPolicies()
}

// text is a field that is a text; empty where there is none.
func text(v *value, name string) string {
	f := v.field(name)
	if f.absent() || f.kind != '"' {
		return ""
	}
	return strings.TrimSpace(f.str)
}

// yes is a field that is a truth.
func yes(v *value, name string) bool {
	f := v.field(name)
	return f != nil && f.kind == 't'
}

// objects are the entries of a list that are objects; others are told.
func (n *netbird) objects(v *value, what string) (out []*value) {
	for _, o := range n.array(v, what) {
		if o.kind != '{' {
			n.bad(o.place, "", "%s: want objects in the list", what)
			continue
		}
		out = append(out, o)
	}
	return out
}

// ids are the entries of a list, each an id or an object that has one.
func (n *netbird) ids(v *value, what string) (out []string) {
	for _, o := range n.array(v, what) {
		id := o.str
		if o.kind == '{' {
			id = text(o, "id")
		}
		if id == "" {
			n.bad(o.place, "", "%s: want ids, or objects with an id", what)
			continue
		}
		out = append(out, id)
	}
	return out
}

func (n *netbird) readGroups() {
	for _, v := range n.objects(n.root.field("groups"), "groups") {
		g := &peerGroup{id: text(v, "id"), name: text(v, "name"), value: v}
		switch {
		case g.id == "" || g.name == "":
			n.bad(v.place, "", "groups: want an id and a name")
		case n.byID[g.id] != nil:
			n.bad(v.place, "", "groups: id %q is there twice", g.id)
		default:
			g.everybody = g.name == "All"
			n.byID[g.id] = g
			n.order = append(n.order, g)
		}
	}
}

// readPeople finds who is in which group. Machines of a group that are not known
// to be of its people bear its tag.
func (n *netbird) readPeople() {
	owner := map[string]string{} // of a peer, by their ids
	for _, v := range n.objects(n.root.field("peers"), "peers") {
		owner[text(v, "id")] = text(v, "user_id")
	}
	in := map[string]map[string]bool{} // users by group, by their ids
	for _, v := range n.objects(n.root.field("users"), "users") {
		email := strings.ToLower(text(v, "email"))
		for _, id := range n.ids(v.field("auto_groups"), "users: auto_groups") {
			g := n.byID[id]
			switch {
			case g == nil:
				n.bad(v.place, "", "users: %q: no group has the id %q", email, id)
				continue
			case yes(v, "is_service_user"), g.everybody:
				continue
			}
			if checkUser(email) != nil {
				n.bad(v.place, "", "users: %q is not an e-mail address", text(v, "email"))
				continue
			}
			if !slices.Contains(g.users, email) {
				g.users = append(g.users, email)
			}
			if in[id] == nil {
				in[id] = map[string]bool{}
			}
			in[id][text(v, "id")] = true
		}
	}
	for _, g := range n.order {
		peers := n.ids(g.value.field("peers"), "groups: peers")
		g.machines = len(g.users) == 0 || slices.ContainsFunc(peers, func(id string) bool {
			user := owner[id]
			return user == "" || !in[g.id][user]
		})
	}
}

func (n *netbird) nameGroups() {
	for _, g := range n.order {
		if g.everybody {
			continue
		}
		comments := g.value.all()
		if slug(g.name) != g.name {
			comments = append(comments, "Was "+clean(g.name)+".")
		}
		if len(g.users) > 0 {
			g.group = n.groupNames.unique(slug(g.name))
			out := group{name: g.group, comments: comments}
			for _, u := range g.users {
				out.members = append(out.members, entryText{text: u})
			}
			n.draft.groups = append(n.draft.groups, out)
			comments = append(slices.Clone(comments), "Machines that were in the group by themselves.")
		}
		if g.machines {
			g.tag = n.tagNames.unique(slug(g.name))
			n.draft.tags = append(n.draft.tags, tag{name: g.tag, comments: comments})
		}
	}
}

// nodes are the selectors of a group's machines.
func (g *peerGroup) nodes() (out []string) {
	if g.everybody {
		return []string{"*"}
	}
	if g.group != "" {
		out = append(out, "group:"+g.group)
	}
	if g.tag != "" {
		out = append(out, "tag:"+g.tag)
	}
	return out
}

// groupsOf are the groups of a list of ids.
func (n *netbird) groupsOf(v *value, what string) (out []*peerGroup) {
	for _, id := range n.ids(v, what) {
		if g := n.byID[id]; g != nil {
			out = append(out, g)
		} else {
			n.bad(v.place, "GET /api/groups", "%s: no group has the id %q", what, id)
		}
	}
	return out
}

// router finds who forwards: the groups of a route or of a network's router.
func (n *netbird) router(v *value, what string) (via []string) {
	if p := text(v, "peer"); p != "" {
		n.unfitting(fileRoutes, v.place, "put the peer into a group and route by the group", "%s: a single peer that routes", what)
		return nil
	}
	for _, g := range n.groupsOf(v.field("peer_groups"), what+": peer_groups") {
		via = appendNew(via, g.nodes()...)
	}
	if slices.Contains(via, "*") {
		n.unfitting(fileRoutes, v.place, "route by the group of those that forward", "%s: routed by everybody", what)
		return nil
	}
	return via
}

// approve adds who may forward to a prefix.
func (n *netbird) approve(p netip.Prefix, via, comments []string) {
	if p.Bits() == 0 {
		if n.draft.exit == nil {
			n.draft.exit = &route{comments: comments}
		}
		n.draft.exit.via = appendNew(n.draft.exit.via, via...)
		return
	}
	i := slices.IndexFunc(n.draft.routes, func(r route) bool { return r.prefix == p })
	if i < 0 {
		i = len(n.draft.routes)
		n.draft.routes = append(n.draft.routes, route{prefix: p})
	}
	n.draft.routes[i].via = appendNew(n.draft.routes[i].via, via...)
	n.draft.routes[i].comments = appendNew(n.draft.routes[i].comments, comments...)
}

// described are a value's comments and its description.
func described(v *value) []string {
	out := v.all()
	for l := range strings.SplitSeq(text(v, "description"), "\n") {
		if l = line(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func (n *netbird) readNetworks() {
	for _, v := range n.objects(n.root.field("networks"), "networks") {
		what := fmt.Sprintf("network %q", text(v, "name"))
		var via []string
		for _, r := range n.embedded(v.field("routers"), what+": routers") {
			if f := r.field("enabled"); f == nil || f.kind != 'f' {
				via = appendNew(via, n.router(r, what)...)
			}
		}
		for _, r := range n.embedded(v.field("resources"), what+": resources") {
			n.resource(r, via, what)
		}
	}
}

// embedded are the objects of a network, which the API answers one by one.
func (n *netbird) embedded(v *value, what string) (out []*value) {
	for _, o := range n.array(v, what) {
		if o.kind != '{' {
			n.bad(o.place, "put the answers of GET /api/networks/ID/resources and /routers in the place of the ids", "%s: want objects", what)
			continue
		}
		out = append(out, o)
	}
	return out
}

func (n *netbird) resource(v *value, via []string, what string) {
	name := text(v, "name")
	what = fmt.Sprintf("%s: resource %q", what, name)
	if f := v.field("enabled"); f != nil && f.kind == 'f' {
		return
	}
	p, err := address(text(v, "address"))
	if err != nil {
		n.unfitting(fileHosts, v.place, "write its address", "%s: a domain, %q", what, text(v, "address"))
		return
	}
	h := host{name: n.hostNames.unique(slug(name)), comments: described(v), prefix: p}
	n.draft.hosts = append(n.draft.hosts, h)
	if len(via) > 0 {
		n.approve(p, via, nil)
	}
	n.resources[text(v, "id")] = &resource{selector: "host:" + h.name}
	for _, g := range n.groupsOf(v.field("groups"), what+": groups") {
		g.behind = appendNew(g.behind, "host:"+h.name)
	}
}

// readRoutes reads routes of the older kind. One without groups that control
// access is open to whoever gets it.
func (n *netbird) readRoutes() {
	for _, v := range n.objects(n.root.field("routes"), "routes") {
		name := text(v, "network_id")
		what := fmt.Sprintf("route %q", name)
		if !yes(v, "enabled") {
			n.notes(fmt.Sprintf("%s was not enabled.", what), described(v))
			continue
		}
		if !v.field("domains").empty() {
			n.unfitting(fileRoutes, v.place, "write its addresses", "%s: a route to domains", what)
			continue
		}
		p, err := address(text(v, "network"))
		if err != nil {
			n.bad(v.place, "", "%s: network: %v", what, err)
			continue
		}
		via := n.router(v, what)
		if len(via) == 0 {
			continue
		}
		n.approve(p, via, described(v))
		to := "autogroup:internet"
		if p.Bits() > 0 {
			h := host{name: n.hostNames.unique(slug(name)), comments: described(v), prefix: p}
			n.draft.hosts = append(n.draft.hosts, h)
			to = "host:" + h.name
		}
		control := n.groupsOf(v.field("access_control_groups"), what+": access_control_groups")
		for _, g := range control {
			g.behind = appendNew(g.behind, to)
		}
		var from []string
		for _, g := range n.groupsOf(v.field("groups"), what+": groups") {
			from = appendNew(from, g.nodes()...)
		}
		if len(control) == 0 && len(from) > 0 {
			n.add(rule{comments: append(described(v), "Whoever got the route reached everything behind it."), from: from, to: []string{to}, allow: []string{"*"}},
				short(from)+"-to-"+short([]string{to}))
		}
	}
}

func (n *netbird) readPolicies() {
	for _, v := range n.objects(n.root.field("policies"), "policies") {
		name := text(v, "name")
		what := fmt.Sprintf("policy %q", name)
		if !yes(v, "enabled") {
			n.notes(fmt.Sprintf("%s was not enabled.", what), described(v))
			continue
		}
		postures, ok := n.sourcePostures(v.field("source_posture_checks"), v, what)
		for _, r := range n.objects(v.field("rules"), what+": rules") {
			if f := r.field("enabled"); f != nil && f.kind == 'f' {
				n.notes(fmt.Sprintf("A rule of %s was not enabled.", what), described(r))
				continue
			}
			n.rule(r, v, what, name, postures, ok)
		}
	}
}

// sourcePostures are the postures of a policy; false where they cannot be said.
func (n *netbird) sourcePostures(list, v *value, what string) ([]string, bool) {
	ids := n.ids(list, what+": source_posture_checks")
	if len(ids) > 1 {
		n.unfitting(fileRules, v.place, "write one posture that says them all", "%s: several posture checks at once", what)
		return nil, false
	}
	if len(ids) == 0 {
		return nil, true
	}
	names, there := n.postures[ids[0]]
	switch {
	case !there:
		n.bad(v.place, "GET /api/posture-checks", "%s: no posture check has the id %q", what, ids[0])
	case len(names) == 0:
		n.unfitting(fileRules, v.place, "", "%s: its posture check", what)
	}
	return names, len(names) > 0
}

func (n *netbird) rule(r, policy *value, what, name string, postures []string, sayable bool) {
	if a := text(r, "action"); a != "accept" {
		// Left out, it would not take away what it takes away: --partial does not help.
		n.bad(r.place, "there is no rule that denies: take the access away from the rules that give it", "%s: action %q", what, a)
		return
	}
	allow, ok := n.allow(r, what)
	from, fromOK := n.side(r, "sources", "sourceResource", what)
	to, toOK := n.side(r, "destinations", "destinationResource", what)
	if !ok || !fromOK || !toOK || !sayable {
		return
	}
	comments := appendNew(described(policy), described(r)...)
	sources := nodesOf(from)
	if len(sources) == 0 || len(to) == 0 {
		n.notes(fmt.Sprintf("%s gave nothing: it has no sources or no destinations.", what), comments)
		return
	}
	base := slug(name)
	n.add(rule{comments: comments, from: sources, to: to, allow: allow, posture: postures, why: why(comments)}, base)
	back := nodesOf(to)
	if !yes(r, "bidirectional") || len(back) == 0 {
		return
	}
	switch {
	case len(postures) > 0: // which are of the same machines there, and of sources here
		n.unfitting(fileRules, r.place, "make the rule one of one direction", "%s: the other direction of a rule with posture checks", what)
	case sameTexts(sources, back) && sameTexts(from, to): // both directions are the same rule
	default:
		n.add(rule{comments: []string{"The other direction of " + base + "."}, from: back, to: from, allow: allow, posture: postures}, base+"-back")
	}
}

// sameTexts reports whether two lists hold the same, in whichever order.
func sameTexts(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// nodesOf are the selectors that are no addresses behind routers, which send
// nothing by themselves there.
func nodesOf(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.HasPrefix(s, "host:") || s == "autogroup:internet" })
}

// side is one side of a rule: groups, or one resource.
func (n *netbird) side(r *value, groups, single, what string) (out []string, ok bool) {
	if v := r.field(single); !v.empty() {
		id := text(v, "id")
		if res := n.resources[id]; res != nil {
			return []string{res.selector}, true
		}
		if id != "" {
			n.unfitting(fileRules, v.place, "put it into a group", "%s: %s is a single %s", what, single, orWant(nil, text(v, "type")))
			return nil, false
		}
	}
	for _, g := range n.groupsOf(r.field(groups), what+": "+groups) {
		out = appendNew(out, g.nodes()...)
		out = appendNew(out, g.behind...)
	}
	return out, true
}

// allow is what a rule opens.
func (n *netbird) allow(r *value, what string) (out []string, ok bool) {
	proto := text(r, "protocol")
	switch proto {
	case "all":
		return []string{"*"}, true
	case "icmp":
		return []string{"icmp"}, true
	case "tcp", "udp":
	case "netbird-ssh":
		n.unfitting(fileRules, r.place, "rules here are about packets: write tcp/22", "%s: protocol netbird-ssh", what)
		return nil, false
	default:
		n.bad(r.place, "", "%s: unknown protocol %q", what, proto)
		return nil, false
	}
	for _, p := range n.array(r.field("ports"), what+": ports") {
		list, err := spans(strings.TrimSpace(p.text()))
		if err != nil || list[0] == (span{}) {
			n.bad(p.place, "", "%s: ports: %q is not a port", what, p.text())
			return nil, false
		}
		for _, s := range list {
			out = appendNew(out, proto+"/"+s.String())
		}
	}
	for _, p := range n.objects(r.field("port_ranges"), what+": port_ranges") {
		first, last := number(p, "start"), number(p, "end")
		if first < 1 || last < first || last > 65535 {
			n.bad(p.place, "", "%s: port_ranges: want start and end, from 1 to 65535", what)
			return nil, false
		}
		out = appendNew(out, proto+"/"+span{first, last}.String())
	}
	if len(out) == 0 {
		out = []string{map[string]string{"tcp": "proto/6", "udp": "proto/17"}[proto]}
	}
	return out, true
}

// number is a field that is a whole number, or -1.
func number(v *value, name string) int {
	f := v.field(name)
	if f.absent() || f.kind != '0' {
		return -1
	}
	n, err := strconv.Atoi(string(f.raw))
	if err != nil {
		return -1
	}
	return n
}

// systems are the operating systems of a check on versions, as nodes here report
// them. Others report versions of kernels there.
var systems = []struct{ there, here string }{{"darwin", "macos"}, {"ios", "ios"}, {"android", "android"}}

func (n *netbird) readPostures() {
	for _, v := range n.objects(n.root.field("posture_checks"), "posture_checks") {
		id, name := text(v, "id"), text(v, "name")
		what := fmt.Sprintf("posture check %q", name)
		if id == "" || name == "" {
			n.bad(v.place, "", "posture_checks: want an id and a name")
			continue
		}
		n.postures[id] = nil
		checks := v.field("checks")
		fits := !checks.empty()
		for _, m := range n.object(checks, what+": checks") {
			if m.name != "os_version_check" && !m.value.empty() {
				n.unfitting(filePostures, m.place, "nodes report os, osVersion, agentVersion and custom:NAME", "%s: %s", what, m.name)
				fits = false
			}
		}
		systemsOf := checks.objectField("os_version_check")
		if !fits || systemsOf == nil {
			continue
		}
		n.versions(id, name, what, systemsOf, described(v))
	}
}

// objectField is a field that is an object, or nil.
func (v *value) objectField(name string) *value {
	if v == nil {
		return nil
	}
	if f := v.field(name); f != nil && f.kind == '{' {
		return f
	}
	return nil
}

// versions makes a posture for each operating system of a check; a source meets
// any of them, and a system that is not listed meets none.
func (n *netbird) versions(id, name, what string, v *value, comments []string) {
	var made []posture
	for _, m := range v.members {
		i := slices.IndexFunc(systems, func(s struct{ there, here string }) bool { return s.there == m.name })
		least := text(m.value, "min_version")
		switch {
		case m.value.absent():
			continue
		case i < 0 || least == "" || version(least) != nil:
			n.unfitting(filePostures, m.place, "write a posture with osVersion", "%s: %s", what, m.name)
			continue
		}
		made = append(made, posture{comments: comments, attrs: []attr{
			{name: "os", values: []string{systems[i].here}}, {name: "osVersion", values: []string{">=" + least}},
		}})
	}
	for _, p := range made {
		base := slug(name)
		if len(made) > 1 {
			base += "-" + p.attrs[0].values[0]
		}
		p.name = n.postureNames.unique(base)
		n.draft.postures = append(n.draft.postures, p)
		n.postures[id] = append(n.postures[id], p.name)
	}
}
