package leaf

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writmesh/writ/coordinator/acl"
)

// holder makes an empty content of the kind that the leaf's name says.
func holder(name string) any {
	switch kind, _, _ := strings.Cut(name, "/"); kind {
	case NameNetwork:
		return new(Network)
	case NameRelays:
		return new(Relays)
	case "principal":
		return new(Principal)
	case "inbound":
		return new(acl.Inbound)
	case "node":
		return new(Node)
	default:
		return new(Enrolment)
	}
}

func TestContentRoundTrip(t *testing.T) {
	for _, l := range examples(t) {
		c := holder(l.Name)
		if err := Decode(l, c); err != nil {
			t.Errorf("%s: %v", l.Name, err)
			continue
		}
		again, err := Encode(l.Name, c)
		if err != nil || !bytes.Equal(again.Data, l.Data) {
			t.Errorf("%s: got %s, %v, want %s", l.Name, again.Data, err, l.Data)
		}
		if !bytes.HasSuffix(l.Data, []byte("}\n")) || bytes.Count(l.Data, []byte("\n")) != 1 {
			t.Errorf("%s: not one line: %q", l.Name, l.Data)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, l := range examples(t) {
		text := strings.TrimSuffix(string(l.Data), "\n")
		for name, in := range map[string]string{
			"nothing":             "",
			"white space":         " \n",
			"an unknown field":    `{"unknown":1,` + text[1:],
			"an array":            "[" + text + "]",
			"a string":            `"x"`,
			"cut":                 text[:len(text)-1],
			"an object after":     text + "{}",
			"a number after":      text + "1",
			"a brace after":       text + "}",
			"a bracket after":     text + "]",
			"a letter after":      text + "x",
			"NUL after":           text + "\x00",
			"a byte order mark":   "\ufeff" + text,
			"a comment":           text + "//",
			"a list for a string": strings.Replace(strings.Replace(text, `"name":"`, `"name":["`, 1), `"to":"`, `"to":["`, 1) + "]",
		} {
			if err := Decode(Leaf{l.Name, []byte(in)}, holder(l.Name)); err == nil {
				t.Errorf("%s with %s: accepted: %s", l.Name, name, in)
			} else if !strings.HasPrefix(err.Error(), "leaf "+l.Name+": ") {
				t.Errorf("%s with %s: the error does not name it: %v", l.Name, name, err)
			}
		}
		big := Leaf{l.Name, bytes.Repeat([]byte(" "), MaxSize+1)}
		if err := Decode(big, holder(l.Name)); err == nil || !strings.HasSuffix(err.Error(), ": 4194305 bytes, at most 4194304") {
			t.Errorf("%s too large: got %v", l.Name, err)
		}
	}
}

const good = `{"rule":"good","from":["*"],"allow":["tcp/1"]}`

// A grant that says something this version does not know gives no access, and
// takes none from its neighbours.
func TestDecodeInboundLeavesOutOneGrant(t *testing.T) {
	for name, grant := range map[string]string{
		"an unknown field":        `{"rule":"x","from":["*"],"allow":["*"],"posture":["disk-encrypted"]}`,
		"an unknown field, null":  `{"rule":"x","from":["*"],"allow":["*"],"weeks":null}`,
		"hours null":              `{"rule":"x","from":["*"],"allow":["*"],"hours":null}`,
		"hours empty":             `{"rule":"x","from":["*"],"allow":["*"],"hours":[]}`,
		"hours without a day":     `{"rule":"x","from":["*"],"allow":["*"],"hours":[{"days":[],"from":"09:00","to":"17:00","zone":"UTC"}]}`,
		"hours of no zone":        `{"rule":"x","from":["*"],"allow":["*"],"hours":[{"days":["mon"],"from":"09:00","to":"17:00","zone":"Mars/Base"}]}`,
		"posture null":            `{"rule":"x","from":["*"],"allow":["*"],"posture":null}`,
		"posture empty":           `{"rule":"x","from":["*"],"allow":["*"],"posture":[]}`,
		"posture of nothing":      `{"rule":"x","from":["*"],"allow":["*"],"posture":[[]]}`,
		"posture unknown op":      `{"rule":"x","from":["*"],"allow":["*"],"posture":[[{"attr":"os","op":"like","values":["a"]}]]}`,
		"posture unknown field":   `{"rule":"x","from":["*"],"allow":["*"],"posture":[[{"attr":"os","op":"set","not":true}]]}`,
		"an unknown selector":     `{"rule":"x","from":["claim:department"],"allow":["*"]}`,
		"an unknown autogroup":    `{"rule":"x","from":["autogroup:admin"],"allow":["*"]}`,
		"not enforced":            `{"rule":"x","from":["host:erp"],"allow":["*"]}`,
		"an unknown exception":    `{"rule":"x","from":["*"],"except":["posture:weak"],"allow":["*"]}`,
		"an unknown toException":  `{"rule":"x","from":["*"],"toExcept":["claim:x"],"allow":["*"]}`,
		"unknown ports":           `{"rule":"x","from":["*"],"allow":["quic/443"]}`,
		"one unknown port":        `{"rule":"x","from":["*"],"allow":["tcp/1","quic/443"]}`,
		"exception null":          `{"rule":"x","from":["*"],"except":[null],"allow":["*"]}`,
		"toException null":        `{"rule":"x","from":["*"],"toExcept":[null],"allow":["*"]}`,
		"source null":             `{"rule":"x","from":[null],"allow":["*"]}`,
		"port null":               `{"rule":"x","from":["*"],"allow":[null]}`,
		"until is no time":        `{"rule":"x","from":["*"],"allow":["*"],"until":"soon"}`,
		"until is a number":       `{"rule":"x","from":["*"],"allow":["*"],"until":0}`,
		"exceptions as a string":  `{"rule":"x","from":["*"],"except":"group:x","allow":["*"]}`,
		"a string for the grant":  `"x"`,
		"an array for the grant":  `[]`,
		"a number for the grant":  `77`,
		"a leading zero in ports": `{"rule":"x","from":["*"],"allow":["tcp/01"]}`,
	} {
		for _, order := range []string{grant + "," + good, good + "," + grant, good + "," + grant + "," + grant} {
			l := Leaf{"inbound/tag:a", []byte(`{"to":"tag:a","grants":[` + order + `]}`)}
			in, unenforced, err := DecodeInbound(l)
			if err != nil || unenforced != strings.Count(order, grant) || len(in.Grants) == 0 {
				t.Errorf("%s: got %d grants, %d not enforced, %v", name, len(in.Grants), unenforced, err)
				continue
			}
			for _, g := range in.Grants {
				if g.Rule != "good" {
					t.Errorf("%s: grant %+v is enforced", name, g)
				}
			}
		}
	}
}

func TestDecodeInboundRefuses(t *testing.T) {
	for name, c := range map[string]struct{ leaf, in, want string }{
		"another destination": {"inbound/tag:b", `{"to":"tag:a","grants":[]}`, "leaf inbound/tag:b: is about tag:a"},
		"no destination":      {"inbound/tag:a", `{"grants":[]}`, "leaf inbound/tag:a: is about nobody"},
		"destination null":    {"inbound/tag:a", `{"to":null,"grants":[]}`, "leaf inbound/tag:a: is about nobody"},
		"unknown destination": {"inbound/claim:a", `{"to":"claim:a","grants":[]}`, `leaf inbound/claim:a: claim "a": want NAME=VALUE`},
		"unknown field":       {"inbound/tag:a", `{"to":"tag:a","grants":[],"mode":"audit"}`, `leaf inbound/tag:a: json: unknown field "mode"`},
		"grants an object":    {"inbound/tag:a", `{"to":"tag:a","grants":{}}`, "leaf inbound/tag:a: json: cannot unmarshal object into Go struct field .grants of type []json.RawMessage"},
		"two destinations":    {"inbound/tag:a", `{"to":"tag:a","grants":[]}{"to":"tag:a","grants":[` + good + `]}`, "leaf inbound/tag:a: data after the end"},
	} {
		in, _, err := DecodeInbound(Leaf{c.leaf, []byte(c.in)})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, in, err, c.want)
		}
	}
}

func TestDecodePrincipal(t *testing.T) {
	p, err := DecodePrincipal(Leaf{"principal/tag:a", []byte(`{"principal":"tag:a","groups":[{"group":"g"}]}`)})
	want := Principal{acl.Selector{Kind: acl.KindTag, Name: "a"}, []acl.Membership{{Group: "g"}}}
	if d := cmp.Diff(want, p); err != nil || d != "" {
		t.Errorf("got %v (-want +got):\n%s", err, d)
	}
	for name, c := range map[string]struct{ leaf, in, want string }{
		"another principal": {"principal/tag:b", `{"principal":"tag:a","groups":[]}`, "leaf principal/tag:b: is about tag:a"},
		"no principal":      {"principal/tag:b", `{"groups":[]}`, "leaf principal/tag:b: is about nobody"},
		"unknown field":     {"principal/tag:a", `{"principal":"tag:a","groups":[],"x":1}`, `leaf principal/tag:a: json: unknown field "x"`},
		"unknown in group":  {"principal/tag:a", `{"principal":"tag:a","groups":[{"group":"g","hours":"9-5"}]}`, `leaf principal/tag:a: json: unknown field "hours"`},
	} {
		p, err := DecodePrincipal(Leaf{c.leaf, []byte(c.in)})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, %v, want %s", name, p, err, c.want)
		}
	}
}

// What is read of a leaf, written again and read again, is the same: for every
// kind, whatever the bytes.
func FuzzContent(f *testing.F) {
	names := []string{"network", "relays", "principal/tag:a", "inbound/tag:a", "node/n", "enrolment/e"}
	for _, l := range examples(f) {
		f.Add(l.Data)
	}
	f.Add([]byte(`{"to":"tag:a","grants":[` + good + `,{"rule":"x","posture":1},null]}`))
	f.Add([]byte(`{"principal":"tag:a","groups":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range names {
			first := holder(name)
			if err := Decode(Leaf{name, b}, first); err != nil {
				continue
			}
			l, err := Encode(name, first)
			if err != nil {
				continue // null where a text belongs
			}
			second := holder(name)
			if err := Decode(l, second); err != nil {
				t.Fatalf("%s: %q is read, and written again as %q is not: %v", name, b, l.Data, err)
			}
			again, err := Encode(name, second)
			if err != nil || !bytes.Equal(again.Data, l.Data) {
				t.Errorf("%s: written as %q, then as %q, %v", name, l.Data, again.Data, err)
			}
		}
		in, _, err := DecodeInbound(Leaf{"inbound/tag:a", b})
		if err == nil {
			if _, err := Encode("inbound/tag:a", in); err != nil {
				t.Errorf("%q: the grants left in have no text: %v", b, err)
			}
		}
		if p, err := DecodePrincipal(Leaf{"principal/tag:a", b}); err == nil && !reflect.DeepEqual(p.Principal, acl.Selector{Kind: acl.KindTag, Name: "a"}) {
			t.Errorf("%q is about %s", b, p.Principal)
		}
	})
}
