package verify

import (
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestAllowedSignersRefused(t *testing.T) {
	a := public(ed25519Signer(t, 1))
	weak := public(rsaSigner(t, rsa2048))
	_, b64, _ := strings.Cut(a, " ")
	wire, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ line, want string }{
		"only_principal":       {"alice", "no key after the principals"},
		"only_type":            {"alice ssh-ed25519", "no key: want a type"},
		"bad_base64":           {"alice ssh-ed25519 !!!!", "key: illegal base64"},
		"truncated":            {"alice ssh-ed25519 " + b64[:40], "key of type ssh-ed25519"},
		"type_differs":         {"alice ecdsa-sha2-nistp256 " + b64, "key says it is ecdsa-sha2-nistp256 and is ssh-ed25519"},
		"trailing_key_bytes":   {"alice ssh-ed25519 " + base64.StdEncoding.EncodeToString(append(wire, 0)), "trailing junk"},
		"rsa2048":              {"alice " + weak, "RSA key of 2048 bits; the least is 3072"},
		"dsa":                  {"alice ssh-dss AAAAB3NzaC1kc3M=", "key of type ssh-dss"},
		"certificate":          {"alice ssh-ed25519-cert-v01@openssh.com AAAA", "key of type ssh-ed25519-cert"},
		"authority":            {"*@acme.example cert-authority " + a, "cert-authority is not supported"},
		"authority_and_more":   {`* cert-authority,namespaces="git" ` + a, "cert-authority is not supported"},
		"unknown_option":       {`alice no-touch-required ` + a, `"no-touch-required" is neither an option nor a key type`},
		"misspelt_option":      {`alice namespace="git" ` + a, `"namespace" is neither an option nor a key type`},
		"unquoted_value":       {"alice namespaces=git " + a, "option namespaces: no quoted value"},
		"unclosed_value":       {`alice namespaces="git ` + a, "quotation mark is not closed"},
		"empty_namespaces":     {`alice namespaces="" ` + a, "option namespaces: empty"},
		"option_twice":         {`alice namespaces="git",namespaces="file" ` + a, "option namespaces twice"},
		"option_without_comma": {`alice namespaces="git"valid-after="20260101" ` + a, "no comma or space after option namespaces"},
		"option_comma_space":   {`alice namespaces="git", ` + a, "neither an option"},
		"option_then_nothing":  {`alice namespaces="git"`, "no key after the options"},
		"bad_time":             {`alice valid-after="2026-01-01" ` + a, "is not YYYYMMDD"},
		"no_such_day":          {`alice valid-after="20260230" ` + a, "no such time"},
		"no_such_hour":         {`alice valid-after="202601012500" ` + a, "no such time"},
		"epoch":                {`alice valid-before="19700101Z" ` + a, "not after 1970"},
		"window_reversed":      {`alice valid-after="20270101",valid-before="20260101" ` + a, "valid-before is not after"},
		"unclosed_principal":   {`"alice ` + a, "quotation mark is not closed"},
		"quote_within":         {`al"ice ` + a, "quotation mark within"},
		"quote_then_text":      {`"alice"x ` + a, "no space after the quoted"},
		"empty_principal":      {"alice,,bob " + a, "empty principal"},
		"empty_quoted":         {`"" ` + a, "empty principal"},
		"bare_negation":        {"! " + a, "empty principal"},
		"nul":                  {"alice\x00 " + a, "control character"},
		"byte_order_mark":      {"\ufeffalice " + a, "byte-order mark"},
		"long_line":            {"alice " + a + " " + strings.Repeat("x", maxLine), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseAllowedSigners("trust/allowed_signers", []byte("# list\nbob "+a+"\n"+tc.line+"\n"))
			if err == nil || !strings.HasPrefix(err.Error(), "trust/allowed_signers:3: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want trust/allowed_signers:3: ... %s", err, tc.want)
			}
		})
	}
	if _, err := ParseAllowedSigners("list", make([]byte, maxSigners+1)); err == nil {
		t.Error("a list above the limit is taken")
	}
	if a, err := ParseAllowedSigners("list", nil); err != nil || a.Len() != 0 {
		t.Errorf("an empty list: got %v, %v; want nobody", a, err)
	}
}

// The slow oracle: a star is nothing, or one byte and itself again.
func slowMatch(s, p string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return slowMatch(s, p[1:]) || s != "" && slowMatch(s[1:], p)
	default:
		return s != "" && (p[0] == '?' || p[0] == s[0]) && slowMatch(s[1:], p[1:])
	}
}

func TestMatchAsOracle(t *testing.T) {
	words := []string{""}
	for i := 0; i < len(words) && len(words[i]) < 4; i++ {
		for _, c := range "ab*?" {
			words = append(words, words[i]+string(c))
		}
	}
	for _, p := range words {
		for _, s := range words {
			if got, want := match(s, p), slowMatch(s, p); got != want {
				t.Fatalf("match(%q, %q): got %v, want %v", s, p, got, want)
			}
		}
	}
	if match(strings.Repeat("a", 10_000), strings.Repeat("a*", 5_000)+"b") {
		t.Error("matched what ends otherwise")
	}
}

func FuzzAllowedSigners(f *testing.F) {
	key := ed25519Signer(f, 1)
	a := public(key)
	for _, s := range []string{
		"alice " + a, `"alice b" namespaces="git",valid-after="20250101Z",valid-before="20270101" ` + a + " c", "*,!x " + a,
		"# x\n\n" + a, `a namespaces="g\"it" ` + a, "a cert-authority " + a, "\x00", `"`, "a b c d",
	} {
		f.Add([]byte(s))
	}
	raw := signed(f, ed25519Signer(f, 2)) // by a key that is in no list
	wire := string(ssh.MarshalAuthorizedKey(ed25519Signer(f, 2).PublicKey()))
	_, other, _ := strings.Cut(strings.TrimSpace(wire), " ")
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseAllowedSigners("list", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "list:") {
				t.Errorf("error %q names no place", err)
			}
			return
		}
		l.find(key.PublicKey(), Namespace, now)
		if strings.Contains(string(text), other) {
			return
		}
		if who, err := Commit(rawCommit(t, raw), l, now); err == nil {
			t.Errorf("a key that is not in the list is %+v", who)
		}
	})
}
