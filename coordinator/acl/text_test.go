package acl

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseSelector(t *testing.T) {
	for text, want := range map[string]Selector{
		"*":                        {Kind: KindAny},
		"alice@acme.example":       {KindUser, "alice@acme.example"},
		"a.b+c_d-e@x":              {KindUser, "a.b+c_d-e@x"},
		"group:accounting":         {KindGroup, "accounting"},
		"group:eu/it.ops_1-a":      {KindGroup, "eu/it.ops_1-a"},
		"group:0":                  {KindGroup, "0"},
		"tag:accounting":           {KindTag, "accounting"},
		"node:ledger-1":            {KindNode, "ledger-1"},
		"autogroup:member":         {Kind: KindMember},
		"autogroup:tagged":         {Kind: KindTagged},
		"autogroup:self":           {Kind: KindSelf},
		"node:" + sixtyThree:       {KindNode, sixtyThree},
		"tag:" + letters(MaxName):  {KindTag, letters(MaxName)},
		"x@" + sixtyThree + ".com": {KindUser, "x@" + sixtyThree + ".com"},
	} {
		got, err := ParseSelector(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %+v, %v, prints %q", text, got, err, got)
		}
	}
}

var sixtyThree = letters(63)

func letters(n int) string { return strings.Repeat("a", n) }

func TestParseSelectorRefuses(t *testing.T) {
	const chars = "; use lower-case letters, digits, '-', '_', '.' and '/'"
	const label = "; use lower-case letters, digits and '-'"
	for text, want := range map[string]string{
		"":                            `"" is not a selector: want a user's e-mail address, group:, tag:, node:, host:, autogroup:, an address, a prefix or *`,
		"alice":                       `"alice" is not a selector: want a user's e-mail address, group:, tag:, node:, host:, autogroup:, an address, a prefix or *`,
		"**":                          `"**" is not a selector: want a user's e-mail address, group:, tag:, node:, host:, autogroup:, an address, a prefix or *`,
		" *":                          `" *" is not a selector: want a user's e-mail address, group:, tag:, node:, host:, autogroup:, an address, a prefix or *`,
		"grp:x":                       `"grp:x" is not a selector: unknown prefix "grp:"`,
		"Group:x":                     `"Group:x" is not a selector: unknown prefix "Group:"`,
		"service:web":                 `"service:web" is not a selector: unknown prefix "service:"`,
		"group:":                      "group: empty name",
		"tag:":                        "tag: empty name",
		"node:":                       "node: empty name",
		"group:A":                     `group name "A": each part begins with a lower-case letter or a digit`,
		"group:aB":                    `group name "aB": 'B' is not allowed` + chars,
		"group:a b":                   `group name "a b": U+0020 is not allowed` + chars,
		"group:a\x00":                 `group name "a\x00": U+0000 is not allowed` + chars,
		"group:аccounting":            `group name "аccounting": each part begins with a lower-case letter or a digit`,
		"group:aсcounting":            `group name "aсcounting": U+0441 is not allowed` + chars,
		"group:a\u200b":               `group name "a\u200b": U+200B is not allowed` + chars,
		"group:a\xff":                 `group name "a\xff": U+FFFD is not allowed` + chars,
		"group:a\x7f":                 `group name "a\x7f": U+007F is not allowed` + chars,
		"group:/a":                    `group name "/a": each part begins with a lower-case letter or a digit`,
		"group:a//b":                  `group name "a//b": each part begins with a lower-case letter or a digit`,
		"group:a/":                    `group name "a/": each part begins with a lower-case letter or a digit`,
		"group:a/../b":                `group name "a/../b": each part begins with a lower-case letter or a digit`,
		"group:a/-b":                  `group name "a/-b": each part begins with a lower-case letter or a digit`,
		"group:group:a":               `group name "group:a": ':' is not allowed` + chars,
		"tag:" + letters(MaxName+1):   "tag name of 254 bytes: at most 253",
		"node:Ledger":                 `node name "Ledger": 'L' is not allowed` + label,
		"node:a.b":                    `node name "a.b": '.' is not allowed` + label,
		"node:a_b":                    `node name "a_b": '_' is not allowed` + label,
		"node:-a":                     `node name "-a": a DNS label does not begin or end with '-'`,
		"node:a-":                     `node name "a-": a DNS label does not begin or end with '-'`,
		"node:é":                      `node name "é": U+00E9 is not allowed` + label,
		"node:" + letters(64):         "node name of 64 bytes: a DNS label has at most 63",
		"autogroup:":                  `unknown "autogroup:": the autogroups are member, tagged, self and internet`,
		"autogroup:members":           `unknown "autogroup:members": the autogroups are member, tagged, self and internet`,
		"10.0.0.1/8":                  `"10.0.0.1/8": write 10.0.0.0/8`,
		"10.0.0.1/32":                 `"10.0.0.1/32": write 10.0.0.1`,
		"10.0.0.256":                  `"10.0.0.256" is neither an address nor a prefix`,
		"fd00::0":                     `"fd00::0": write fd00::`,
		"FD00::1":                     `"FD00::1": write fd00::1`,
		"::ffff:10.0.0.1":             `"::ffff:10.0.0.1": write an IPv4 address, or an IPv6 address without a zone`,
		"claim:groups":                `claim "groups": want NAME=VALUE`,
		"claim:groups=":               `claim "groups=": want NAME=VALUE`,
		"claim:groups=a  b":           `claim "groups=a  b": a space too many`,
		"@":                           `user "@": want name@domain`,
		"@acme.example":               `user "@acme.example": want name@domain`,
		"alice@":                      `user "alice@": want name@domain`,
		"Alice@acme.example":          `user "Alice@acme.example": write the address in lower case`,
		"alice@Acme.example":          `user "alice@Acme.example": write the address in lower case`,
		"a@b@c":                       `user "a@b@c": domain name "b@c": '@' is not allowed` + label,
		"alice@acme..example":         `user "alice@acme..example": domain: empty name`,
		"alice@acme.example.":         `user "alice@acme.example.": domain: empty name`,
		"alice@-acme.example":         `user "alice@-acme.example": domain name "-acme": a DNS label does not begin or end with '-'`,
		"alice @acme.example":         `user "alice @acme.example": U+0020 is not allowed`,
		"alice@acme.example ":         `user "alice@acme.example ": U+0020 is not allowed`,
		"alice@acme.example\n":        `user "alice@acme.example\n": U+000A is not allowed`,
		`"alice"@acme.example`:        `user "\"alice\"@acme.example": '"' is not allowed`,
		"аlice@acme.example":          `user "аlice@acme.example": U+0430 is not allowed`,
		"tag:alice@acme.example":      `user "tag:alice@acme.example": ':' is not allowed`,
		"a,b@acme.example":            `user "a,b@acme.example": ',' is not allowed`,
		"*@acme.example":              `user "*@acme.example": '*' is not allowed`,
		"ali*@acme.example":           `user "ali*@acme.example": '*' is not allowed`,
		letters(250) + "@a.b":         "user name of 254 bytes: at most 253",
		"alice@" + letters(64) + ".b": `user "alice@` + letters(64) + `.b": domain name of 64 bytes: a DNS label has at most 63`,
	} {
		_, err := ParseSelector(text)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]Ports{
		"*":             {Range: RangeAll},
		"icmp":          {Range: RangeEcho},
		"tcp/443":       {RangePorts, TCP, 443, 443},
		"udp/8000-8100": {RangePorts, UDP, 8000, 8100},
		"sctp/1":        {RangePorts, SCTP, 1, 1},
		"tcp/1-65535":   {RangePorts, TCP, 1, 65535},
		"tcp/65535":     {RangePorts, TCP, 65535, 65535},
		"proto/47":      {Range: RangeProto, Proto: 47},
		"proto/0":       {Range: RangeProto},
		"proto/255":     {Range: RangeProto, Proto: 255},
		"proto/6":       {Range: RangeProto, Proto: TCP},
	} {
		got, err := ParsePorts(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %+v, %v, prints %q", text, got, err, got)
		}
	}
	for text, want := range map[string]string{
		"":             "empty port",
		"443":          `"443": unknown protocol "443"; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
		"TCP/443":      `"TCP/443": unknown protocol "TCP"; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
		"http":         `"http": unknown protocol "http"; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
		"/443":         `"/443": unknown protocol ""; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
		"tcp:443":      `"tcp:443": unknown protocol "tcp:443"; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
		"icmp/8":       `"icmp/8": icmp has no ports; write "icmp" for ping`,
		"tcp":          `"tcp": which port? write tcp/PORT, tcp/FIRST-LAST, or proto/6 for all`,
		"udp":          `"udp": which port? write udp/PORT, udp/FIRST-LAST, or proto/17 for all`,
		"sctp":         `"sctp": which port? write sctp/PORT, sctp/FIRST-LAST, or proto/132 for all`,
		"tcp/":         `"tcp/": port "" is not a number`,
		"tcp/*":        `"tcp/*": port "*" is not a number`,
		"tcp/0":        `"tcp/0": port 0 is not a port`,
		"tcp/0-10":     `"tcp/0-10": port 0 is not a port`,
		"tcp/65536":    `"tcp/65536": port 65536 is above 65535`,
		"tcp/1-65536":  `"tcp/1-65536": port 65536 is above 65535`,
		"tcp/0443":     `"tcp/0443": port "0443" is not a number`,
		"tcp/+443":     `"tcp/+443": port "+443" is not a number`,
		"tcp/-443":     `"tcp/-443": port "" is not a number`,
		"tcp/443-":     `"tcp/443-": port "" is not a number`,
		"tcp/ 443":     `"tcp/ 443": port " 443" is not a number`,
		"tcp/443 ":     `"tcp/443 ": port "443 " is not a number`,
		"tcp/0x1bb":    `"tcp/0x1bb": port "0x1bb" is not a number`,
		"tcp/1_000":    `"tcp/1_000": port "1_000" is not a number`,
		"tcp/٤":        `"tcp/٤": port "٤" is not a number`,
		"tcp/443-443":  `"tcp/443-443": a range of one port; write tcp/443`,
		"tcp/444-443":  `"tcp/444-443": the range runs backwards`,
		"tcp/1-2-3":    `"tcp/1-2-3": port "2-3" is not a number`,
		"tcp/443,80":   `"tcp/443,80": port "443,80" is not a number`,
		"tcp/443/tls":  `"tcp/443/tls": port "443/tls" is not a number`,
		"tcp/" + nines: `"tcp/` + nines + `": port "` + nines + `" is not a number`,
		"proto":        `"proto": want proto/NUMBER`,
		"proto/":       `"proto/": protocol "" is not a number`,
		"proto/256":    `"proto/256": protocol 256 is above 255`,
		"proto/-1":     `"proto/-1": protocol "-1" is not a number`,
		"proto/gre":    `"proto/gre": protocol "gre" is not a number`,
		"proto/47-48":  `"proto/47-48": protocol "47-48" is not a number`,
		"**":           `"**": unknown protocol "**"; want tcp/PORT, udp/PORT, sctp/PORT, icmp, proto/NUMBER or *`,
	} {
		got, err := ParsePorts(text)
		if err == nil || err.Error() != want || got != (Ports{}) {
			t.Errorf("%q: got %+v, %v, want %s", text, got, err, want)
		}
	}
}

const nines = "99999999999999999999999"

// What says nothing has no text, so that nothing is published that cannot be
// read.
func TestEmptyHasNoText(t *testing.T) {
	if b, err := json.Marshal(Selector{}); err == nil {
		t.Errorf("the empty selector is written as %s", b)
	}
	if b, err := json.Marshal(Ports{}); err == nil {
		t.Errorf("the empty port set is written as %s", b)
	}
	if (Selector{}).String() != "nobody" || (Ports{}).String() != "nothing" {
		t.Error("the empty selector or port set prints as something")
	}
	if _, err := ParseSelector("nobody"); err == nil {
		t.Error(`"nobody" is a selector`)
	}
	if _, err := ParsePorts("nothing"); err == nil {
		t.Error(`"nothing" is a port set`)
	}
}

func TestTargetString(t *testing.T) {
	for want, target := range map[string]Target{
		"tcp/443": {Proto: TCP, Port: 443}, "udp/53": {Proto: UDP, Port: 53}, "sctp/5": {Proto: SCTP, Port: 5},
		"icmp": {Proto: ICMPv6, Echo: true}, "proto/1": {Proto: ICMP}, "proto/47": {Proto: 47},
	} {
		if got := target.String(); got != want {
			t.Errorf("%+v: got %s, want %s", target, got, want)
		}
	}
	for want, p := range map[string]Proto{"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp4": ICMP, "icmp6": ICMPv6, "proto/47": 47} {
		if p.String() != want {
			t.Errorf("got %s, want %s", p, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"*", "alice@acme.example", "group:a/b", "tag:x", "node:y", "autogroup:self", "host:z", "10.0.0.1", "fd00::/8", "tcp/443", "udp/1-2", "icmp", "proto/47", "", "@", ":", "/", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sel, err := ParseSelector(s); err == nil {
			if sel.String() != s || sel.Kind == KindNone {
				t.Errorf("%q is read as %+v, which prints as %q", s, sel, sel)
			}
			if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				t.Errorf("%q holds a character that is not printable ASCII", s)
			}
		}
		if p, err := ParsePorts(s); err == nil && (p.String() != s || p.Range == RangeNone) {
			t.Errorf("%q is read as %+v, which prints as %q", s, p, p)
		}
	})
}
