package trust

import (
	"strings"
	"testing"
)

// The reading of a text is one-to-one: what is read is written as it was.
func fuzzText(f *testing.F, parse func(string) (interface{ Text() string }, error), seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
		f.Add(strings.ReplaceAll(s, " ", "  "))
		f.Add(s + s)
	}
	f.Add("")
	f.Add("\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parse(text)
		if err == nil && d.Text() != text {
			t.Errorf("%q is written again as %q", text, d.Text())
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseRoot(s) }, firstRoot().Text(), secondRoot().Text())
}

func FuzzParseManifest(f *testing.F) {
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseManifest(s) }, exampleManifest().Text(), firstManifest().Text())
}

func FuzzParseEnded(f *testing.F) {
	fuzzText(f, func(s string) (interface{ Text() string }, error) { return parseEnded(s) }, exampleEnded().Text())
}

// No bytes but those that were signed are a document: whatever is opened has a
// text that the keys' holders signed in this test.
func FuzzOpen(f *testing.F) {
	ours := map[string]bool{}
	for _, v := range vectors() {
		f.Add(v.msg)
		text, _, _ := strings.Cut(string(v.msg), "\n\n")
		ours[text+"\n"] = true
	}
	f.Add(signed("x\n", x1))
	f.Add([]byte("\n\n"))
	id := r1.Public().Identity()
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, v := range vectors()[:6] {
			if text, err := v.open(msg); err == nil && !ours[text] {
				t.Errorf("%s: opened %q", v.file, text)
			}
		}
		if text, err := OpenFrom(msg, MaxRoot, id); err == nil {
			t.Errorf("opened %q as signed by a node that signed nothing", text)
		}
		if b, err := AddSignature(msg, x1); err == nil {
			before, err1 := Text(msg)
			after, err2 := Text(b)
			if err1 != nil || err2 != nil || before != after {
				t.Errorf("adding a signature to %q gives %q, %v, %v", msg, b, err1, err2)
			}
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(p1.Public().String())
	f.Add(p1.Secret())
	f.Add(smallOrderKey("x"))
	f.Add("a+00000000+AQ==")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseVKey(s); err == nil && k.String() != s {
			t.Errorf("%q prints as %q", s, k)
		}
		if k, err := ParseSigningKey(s); err == nil && k.Secret() != s {
			t.Errorf("%q prints as %q", s, k.Secret())
		}
	})
}
