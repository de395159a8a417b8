package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/writmesh/writ/coordinator/deptest"
)

// documents are what is written for people, from the root.
var documents = []string{
	"README.md", "SECURITY.md", "CHANGELOG.md", "BENCHMARKS.md", ".github/CONTRIBUTING.md", "cue/README.md",
}

var (
	quoted   = regexp.MustCompile("`([^`\n]+)`")
	testName = regexp.MustCompile(`^([a-z./]+)\.((?:Test|Fuzz)\w+)$`)
	pathName = regexp.MustCompile(`^(?:policy|cue|sync|coordinator|agent|relay|examples|\.ci|\.github)/[\w./-]+$`)
	link     = regexp.MustCompile(`\]\(([^):#]+)\)`)
)

// What the documents name is there: `package.TestName`, `folder/file`, and what
// they link to.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	root := deptest.Root(t)
	tests := 0
	for _, name := range documents {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range strings.Split(string(b), "\n") {
			for _, m := range quoted.FindAllStringSubmatch(l, -1) {
				if test := testName.FindStringSubmatch(m[1]); test != nil {
					tests++
					if !declares(t, filepath.Join(root, test[1]), test[2]) {
						t.Errorf("%s:%d: no test %s in %s", name, i+1, test[2], test[1])
					}
				} else if pathName.MatchString(m[1]) && !exists(filepath.Join(root, m[1])) && !exists(filepath.Join(root, filepath.Dir(name), m[1])) {
					t.Errorf("%s:%d: %s is not there", name, i+1, m[1])
				}
			}
			for _, m := range link.FindAllStringSubmatch(l, -1) {
				if !exists(filepath.Join(root, filepath.Dir(name), m[1])) {
					t.Errorf("%s:%d: links to %s, which is not there", name, i+1, m[1])
				}
			}
		}
	}
	if tests == 0 {
		t.Error("SECURITY.md names no test in the form `package.TestName`")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// declares reports whether a test file of the directory declares a test.
func declares(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
