package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// maxCapabilities is the size of a rule's capabilities in bytes, names and values
// together: they go to every node that the rule is about.
const maxCapabilities = 16 << 10

// opaque reports whether the value at path is JSON that means nothing to a policy.
func opaque(path []string) bool {
	return len(path) == 4 && path[0] == "rules" && path[2] == "capabilities"
}

// canonicalJSON is a JSON value as the model holds it: compact, the keys of
// objects sorted, characters that HTML would take for its own escaped. Encoding
// does not change it. Nil of what is no JSON.
func canonicalJSON(text []byte) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // which are as they were written
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	if _, err := d.Token(); err != io.EOF {
		return nil
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return out
}

func (d *decoder) capabilities(v *value, what string) map[string]json.RawMessage {
	if v == nil {
		return nil
	}
	if len(v.fields) == 0 {
		d.problems.Add(v.place, `%s: "capabilities" is empty`, what)
		return nil
	}
	out := map[string]json.RawMessage{}
	size := 0
	for _, f := range v.fields {
		if err := checkCapability(f.name); err != nil {
			d.add(f.value.place, what, err)
			continue
		}
		if f.value.json == nil {
			d.problems.Add(f.value.place, "%s: capability %s: not a JSON value", what, quoteName(f.name))
			continue
		}
		out[f.name] = f.value.json
		size += len(f.name) + len(f.value.json)
	}
	if size > maxCapabilities {
		d.problems.Add(v.place, "%s: capabilities of %d bytes: at most %d", what, size, maxCapabilities)
	}
	return out
}

// maxCapabilityName is the longest name of a capability: a domain and a path.
const maxCapabilityName = 253

// checkCapability checks the name of a capability: the domain of whoever defines
// what it means, and a path there.
func checkCapability(name string) error {
	domain, path, ok := strings.Cut(name, "/")
	switch {
	case len(name) > maxCapabilityName:
		return fmt.Errorf("capability name of %d bytes: at most %d", len(name), maxCapabilityName)
	case !ok || !strings.Contains(domain, "."):
		return fmt.Errorf(`capability %s: want the domain of whoever defines it and a path, as in "acme.example/cap/ledger"`, quoteName(name))
	}
	if err := checkDomain(domain); err != nil {
		return fmt.Errorf("capability %s: %w", quoteName(name), err)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return fmt.Errorf("capability %s: a path is parts of letters, digits, '-', '_' and '.', joined by '/'", quoteName(name))
		}
	}
	return nil
}
