package ci

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// An action is what a runner reads of action.yml.
type action struct {
	Name        string
	Description string
	Author      string
	Branding    map[string]string
	Inputs      map[string]struct {
		Description, Default string
		Required             bool
	}
	Outputs map[string]struct{ Description, Value string }
	Runs    struct {
		Using string
		Steps []step
	}
}

type step struct {
	ID, Name, If, Uses, Shell, Run string
	Env, With                      map[string]string
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// A runner runs the steps of a composite action as GitHub's does: expressions
// are evaluated, outputs go from file to context, a step without a condition runs
// while all before it succeeded. Steps that use other actions are noted only.
type runner struct {
	t       *testing.T
	context map[string]string // "github.event.before", "inputs.base", "steps.review.outputs.result"; what is not there is null
	env     []string
	dir     string // the workspace
	temp    string
	failed  bool

	log     string
	used    []string // actions, with what they were given
	summary string
}

func (r *runner) run(a action, actionPath string) {
	r.t.Helper()
	for name, in := range a.Inputs {
		if _, given := r.context["inputs."+name]; !given {
			r.context["inputs."+name] = r.expand(in.Default)
		}
	}
	r.context["github.action_path"] = actionPath
	for i, s := range a.Runs.Steps {
		when := s.If
		if when == "" {
			when = "success()"
		} else if !strings.Contains(when, "always()") {
			when = "success() && " + when
		}
		if !truth(r.evaluate(when)) {
			continue
		}
		if s.Uses != "" {
			var with []string
			for _, k := range []string{"name", "path", "go-version-file"} {
				if v, ok := s.With[k]; ok {
					with = append(with, k+"="+r.expand(v))
				}
			}
			r.used = append(r.used, s.Uses+" "+strings.Join(with, " "))
			continue
		}
		if s.Shell != "bash" || strings.Contains(s.Run, "${{") {
			r.t.Errorf("step %d: want bash, and no expression in a script, which the author of a change could end: %q", i, s.Run)
		}
		output := filepath.Join(r.temp, fmt.Sprint("output", i))
		summary := filepath.Join(r.temp, fmt.Sprint("summary", i))
		script := filepath.Join(r.temp, fmt.Sprint("script", i, ".sh"))
		for name, text := range map[string]string{output: "", summary: "", script: s.Run} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(r.t.Context(), "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script)
		cmd.Dir = r.dir
		cmd.Env = append(append([]string{}, r.env...), "GITHUB_OUTPUT="+output, "GITHUB_STEP_SUMMARY="+summary, "GITHUB_ACTION_PATH="+actionPath, "RUNNER_TEMP="+r.temp)
		for k, v := range s.Env {
			cmd.Env = append(cmd.Env, k+"="+r.expand(v))
		}
		out, err := cmd.CombinedOutput()
		r.log += string(out)
		if err != nil {
			r.failed = true
			r.log += fmt.Sprintf("[step %s: %v]\n", s.Name, err)
		}
		b, err := os.ReadFile(output)
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			r.context["steps."+s.ID+".outputs."+k] = v
		}
		b, err = os.ReadFile(summary)
		if err != nil {
			r.t.Fatal(err)
		}
		r.summary += string(b)
	}
}

var expression = regexp.MustCompile(`\$\{\{(.*?)\}\}`)

// expand replaces expressions in a text.
func (r *runner) expand(text string) string {
	return expression.ReplaceAllStringFunc(text, func(s string) string {
		return r.evaluate(expression.FindStringSubmatch(s)[1])
	})
}

func truth(s string) bool { return s != "" && s != "false" && s != "0" }

// evaluate knows "&&", "||", "==", "!=", quoted strings, success(), always() and
// names of contexts, all that the action uses. Null is the empty string, which in
// comparisons it equals.
func (r *runner) evaluate(e string) string {
	r.t.Helper()
	if parts := strings.Split(e, "||"); len(parts) > 1 {
		value := ""
		for _, p := range parts {
			if value = r.evaluate(p); truth(value) {
				break
			}
		}
		return value
	}
	if parts := strings.Split(e, "&&"); len(parts) > 1 {
		value := ""
		for _, p := range parts {
			if value = r.evaluate(p); !truth(value) {
				break
			}
		}
		return value
	}
	if call := regexp.MustCompile(`^ *format\('([^']*)', ([a-z_.]+)\) *$`).FindStringSubmatch(e); call != nil {
		return strings.ReplaceAll(call[1], "{0}", r.evaluate(call[2]))
	}
	for _, op := range []string{"==", "!="} {
		if a, b, ok := strings.Cut(e, op); ok {
			return strconv.FormatBool((r.evaluate(a) == r.evaluate(b)) == (op == "=="))
		}
	}
	e = strings.TrimSpace(e)
	switch {
	case e == "always()":
		return "true"
	case e == "success()":
		return strconv.FormatBool(!r.failed)
	case strings.HasPrefix(e, "'") && strings.HasSuffix(e, "'"):
		return strings.Trim(e, "'")
	case regexp.MustCompile(`^(github|inputs|steps)(\.[a-z_]+)+$`).MatchString(e):
		return r.context[e]
	}
	r.t.Fatalf("expression %q: this runner does not know it", e)
	return ""
}
