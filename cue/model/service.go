package model

import (
	"cmp"
	"slices"

	"github.com/writmesh/writ/coordinator/acl"
)

func (c *check) checkServices() {
	before := len(c.problems)
	for _, s := range c.p.Services {
		for _, port := range s.Ports {
			if name, ok := serviceName(port.Text); ok {
				c.service(subject("service", s.Name), name, port.Place)
			}
		}
	}
	cycles(c, "service", c.p.Services, func(s Service) (string, Place, []PortRef) {
		var inner []PortRef
		for _, port := range s.Ports {
			if name, ok := serviceName(port.Text); ok {
				inner = append(inner, PortRef{name, port.Place})
			}
		}
		return s.Name, s.Place, inner
	})
	c.expanded = map[string][]acl.Ports{}
	if len(c.problems) > before {
		return // a cycle has no expansion
	}
	for _, s := range c.p.Services {
		c.expand(s.Name)
	}
}

func (c *check) service(what, name string, at Place) bool {
	if c.services[name] == nil {
		unknownName(c, what, "service", name, at, c.services)
		return false
	}
	return true
}

// expand is a service's ports with the services in it expanded, each once. It
// is called after cycles were ruled out.
func (c *check) expand(name string) []acl.Ports {
	if ports, ok := c.expanded[name]; ok {
		return ports
	}
	var ports []acl.Ports
	for _, port := range c.services[name].Ports {
		if inner, ok := serviceName(port.Text); ok {
			ports = append(ports, c.expand(inner)...)
		} else if p, err := acl.ParsePorts(port.Text); err == nil {
			ports = append(ports, p)
		}
	}
	ports = sortPorts(ports)
	c.expanded[name] = ports
	return ports
}

// ports expands a list of ports as written.
func (c *check) ports(what string, list []PortRef) (ports []acl.Ports) {
	for _, ref := range list {
		if name, ok := serviceName(ref.Text); ok {
			if c.service(what, name, ref.Place) {
				ports = append(ports, c.expanded[name]...)
			}
			continue
		}
		p, err := acl.ParsePorts(ref.Text)
		if err != nil {
			c.problems.Add(ref.Place, "%s: %s", what, clean(err.Error()))
			continue
		}
		ports = append(ports, p)
	}
	return sortPorts(ports)
}

// sortPorts orders ports by shape, protocol and number, each once.
func sortPorts(ports []acl.Ports) []acl.Ports {
	slices.SortFunc(ports, func(a, b acl.Ports) int {
		return cmp.Or(cmp.Compare(a.Range, b.Range), cmp.Compare(a.Proto, b.Proto),
			cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	return slices.Compact(ports)
}
