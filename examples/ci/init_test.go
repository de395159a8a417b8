package ci

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A workflow is what a runner reads of a workflow's file.
type workflow struct {
	Name        string
	On          map[string]any
	Permissions map[string]string
	Jobs        map[string]struct {
		RunsOn  string `yaml:"runs-on"`
		Timeout int    `yaml:"timeout-minutes"`
		Steps   []step
	}
}

// initialised is a repository as "policy init" makes it.
func initialised(t *testing.T) (*repository, workflow) {
	t.Helper()
	r := newRepository(t, "")
	if err := os.Remove(filepath.Join(r.dir, "README")); err != nil {
		t.Fatal(err)
	}
	r.main = r.commit("empty")
	if out, err := exec.CommandContext(t.Context(), policyProgram(t), "init", r.dir).CombinedOutput(); err != nil {
		t.Fatalf("policy init: %v\n%s", err, out)
	}
	r.main = r.commit("init")
	r.git("update-ref", "refs/remotes/origin/main", "HEAD")
	var w workflow
	readYAML(t, filepath.Join(r.dir, ".github/workflows/policy.yml"), &w)
	return r, w
}

// perform runs the steps of the workflow that are scripts, but for the one that
// installs the program, which stands in the way of commands already.
func (w workflow) perform(t *testing.T, r *repository, context map[string]string) *runner {
	t.Helper()
	temp := t.TempDir()
	run := &runner{t: t, context: context, dir: r.dir, temp: temp, env: []string{
		"PATH=" + filepath.Dir(policyProgram(t)) + ":" + os.Getenv("PATH"), "HOME=" + temp, "LC_ALL=C.UTF-8",
	}}
	var a action
	for _, s := range w.Jobs["policy"].Steps {
		if strings.HasPrefix(s.Run, "go install ") {
			continue
		}
		if s.Run != "" {
			s.Shell = "bash" // the runner's own choice, with pipefail where it is named
		}
		a.Runs.Steps = append(a.Runs.Steps, s)
	}
	run.run(a, "")
	return run
}

// The workflow of "policy init" passes on what it made, says of a change who gains
// access, fails where a guard denies, and shows why where it could not tell.
func TestInitWorkflow(t *testing.T) {
	r, w := initialised(t)
	if len(w.Jobs["policy"].Steps) < 3 || w.Permissions["contents"] != "read" || len(w.Permissions) != 1 {
		t.Fatalf("workflow %+v: want a job that may read the repository and nothing else", w)
	}
	pull := func() map[string]string { return map[string]string{"github.base_ref": "main"} }

	push := w.perform(t, r, map[string]string{"github.event.before": strings.Repeat("0", 40)})
	if push.failed || !strings.Contains(push.summary, "Tests pass") || strings.Contains(push.log, "stop-commands") {
		t.Errorf("first push: failed %v\n%s\n%s", push.failed, push.log, push.summary)
	}

	r.propose(map[string]string{"more.cue": "package network\n\nrules: more: {from: [\"group:it\"], to: [\"tag:accounting\"], allow: [\"udp/161\"], why: \"OPS-2\"}\n"})
	more := w.perform(t, r, pull())
	if more.failed || !strings.Contains(more.summary, "Access gained") || !strings.Contains(more.summary, "`udp/161`") {
		t.Errorf("more access: failed %v\n%s\n%s", more.failed, more.log, more.summary)
	}

	r.propose(map[string]string{"star.cue": "package network\n\nrules: star: {from: [\"*\"], to: [\"*\"], allow: [\"*\"], why: \"OPS-3\"}\n"})
	star := w.perform(t, r, pull())
	if !star.failed || !strings.Contains(star.log, "::error") || !strings.Contains(star.summary, "Must not be merged") {
		t.Errorf("everything: failed %v\n%s\n%s", star.failed, star.log, star.summary)
	}

	r.propose(map[string]string{"broken.cue": "package network\n\n\"::warning::obeyed\": 1\n"})
	broken := w.perform(t, r, pull())
	if !broken.failed || !strings.Contains(broken.log, "broken.cue:3:") || !strings.Contains(broken.summary, "Cannot tell") {
		t.Errorf("broken: failed %v\n%s\n%s", broken.failed, broken.log, broken.summary)
	}
	if !strings.Contains(broken.log, "::stop-commands::") {
		t.Errorf("broken: what it says on its standard error is obeyed, or not shown:\n%s", broken.log)
	}
	for _, line := range obeyed(broken.log) {
		if strings.HasPrefix(line, "::warning::obeyed") {
			t.Errorf("the change's text is obeyed: %s", line)
		}
	}
}

// obeyed are the lines of a log that a runner takes for commands.
func obeyed(log string) (out []string) {
	stopped := ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		switch {
		case stopped != "":
			if line == "::"+stopped+"::" {
				stopped = ""
			}
		case strings.HasPrefix(line, "::stop-commands::"):
			stopped = strings.TrimPrefix(line, "::stop-commands::")
		case strings.HasPrefix(line, "::") || strings.Contains(line, "##["):
			out = append(out, line)
		}
	}
	return out
}
