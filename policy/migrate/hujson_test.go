package migrate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCommentsBelongToWhatTheyStandAt(t *testing.T) {
	root, err := parse("f", []byte(`// the whole
{
	// above a
	"a": 1, // behind a
	/* above b,
	 * on two lines */
	"b": [ // inside b
		"x", // behind x
		// above y
		"y" // behind y
		// below y
	],
	// at the end
} // after all
`))
	if err != nil {
		t.Fatal(err)
	}
	b := root.field("b")
	for _, test := range []struct {
		what string
		got  []string
		want string
	}{
		{"the whole", root.comments, "[the whole]"},
		{"a", root.field("a").comments, "[above a behind a]"},
		{"b", b.comments, "[above b, on two lines]"},
		{"x", b.items[0].comments, "[inside b behind x]"},
		{"all of b", b.all(), "[above b, on two lines inside b behind x above y behind y below y]"},
		{"the end", root.inside, "[at the end after all]"},
	} {
		if got := fmt.Sprint(test.got); got != test.want {
			t.Errorf("%s: got %s, want %s", test.what, got, test.want)
		}
	}
}

func TestHostilePolicyFiles(t *testing.T) {
	for _, test := range []struct{ name, src, want string }{
		{"deep", strings.Repeat("[", 1<<20), "f:1:65: values are more than 64 deep"},
		{"deep behind comments", "//[[[\n/*[[[*/" + strings.Repeat(`{"[[[":`, 100), "f:2:"},
		{"large", strings.Repeat(" ", MaxSize+1), "at most 4194304"},
		{"no text", "\xff{}", "not UTF-8"},
		{"empty", "", "not HuJSON"},
		{"an unclosed comment", "/* [", "not HuJSON"},
		{"an unclosed string", `{"a`, "not HuJSON"},
		{"a name twice", `{"acls": [], "acls": []}`, `f:1:14: "acls" is there twice`},
		{"a list", "[]", "want an object"},
	} {
		_, err := Tailscale([]byte(test.src), Options{File: "f"})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %.200v, want %s", test.name, err, test.want)
		}
	}
}

// Characters that would end a comment or be obeyed by a terminal come out as
// spaces, and what is between quotes is written so that CUE reads the same.
func TestTextsAreClean(t *testing.T) {
	r, err := Tailscale([]byte("{// one\r two \u202e three \x1b[31m\n\"acls\": [{\"action\": \"accept\", \"src\": [\"a@b.example\"], \"dst\": [\"10.0.0.1:22\"]}],\n"+
		`"hosts": {"a\\(b)\"c": "10.0.0.1", "\u2028": "10.0.0.2"}}`), Options{File: "f"})
	if err != nil {
		t.Fatal(err)
	}
	loadResult(t, r)
	for _, bad := range []string{"\r", "\x1b", "\u202e", "\u2028"} {
		if strings.Contains(all(r), bad) {
			t.Errorf("%q came through:\n%s", bad, all(r))
		}
	}
	for _, f := range r.Files {
		if f.Name == fileHosts && !strings.Contains(string(f.Data), `"a-b-c"`) {
			t.Errorf("got hosts\n%s\nwant one called a-b-c", f.Data)
		}
	}
}

func TestNamesAreUniqueAndStable(t *testing.T) {
	n := newNames("group")
	var got []string
	for _, s := range []string{"Dev Ops", "dev-ops", "dev-ops", "DEV/OPS", "", "é"} {
		got = append(got, n.name(s))
	}
	if want := []string{"dev-ops", "dev-ops-2", "dev-ops-2", "dev-ops-3", "group", "group-2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
