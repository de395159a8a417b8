// Package ci tests what reviews a policy in other people's CI: the action for
// GitHub in .github/actions/policy, and the template for GitLab beside this file.
// Their steps run here as the runners run them, over a repository and against
// servers on loopback that answer as the forges do.
package ci

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const actionDir = "../../.github/actions/policy"

// program builds the policy program once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "writ-ci-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "policy")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, "../../policy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build policy: %w\n%s", err, out)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if name, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(name))
	}
	os.Exit(code)
}

func policyProgram(t *testing.T) string {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A repository is one that a change is proposed to: main has the example, and
// each change is a merge of it into main, as GitHub checks it out.
type repository struct {
	t          *testing.T
	dir        string
	main, head string
}

func newRepository(t *testing.T, policyIn string) *repository {
	t.Helper()
	r := &repository{t: t, dir: t.TempDir()}
	r.git("init", "-q", "-b", "main")
	r.write("README", "a repository\n")
	r.main = r.commit("begin")
	if policyIn != "" {
		if err := os.CopyFS(filepath.Join(r.dir, policyIn), os.DirFS("../accounting")); err != nil {
			t.Fatal(err)
		}
		r.main = r.commit("the policy")
	}
	return r
}

func (r *repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", append([]string{"-c", "user.name=Dave", "-c", "user.email=dave@acme.example", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repository) write(name, text string) {
	r.t.Helper()
	name = filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repository) commit(message string) string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "-m", message)
	return r.git("rev-parse", "HEAD")
}

// propose makes a branch with files, and the merge that is tested.
func (r *repository) propose(files map[string]string) {
	r.t.Helper()
	r.git("checkout", "-q", "-B", "change", "main")
	for name, text := range files {
		r.write(name, text)
	}
	r.commit("change")
	r.git("checkout", "-q", "--detach", "main")
	r.git("merge", "-q", "--no-ff", "-m", "merge", "change")
	r.head = r.git("rev-parse", "HEAD")
}

// A forge answers as GitHub's API does about the comments of one pull request,
// and remembers what it was asked.
type forge struct {
	t  *testing.T
	mu sync.Mutex
	// guarded by mu
	comments []comment
	asked    []string
	refuses  bool // tokens may only read
}

type comment struct {
	ID   int    `json:"id"`
	Body string `json:"body"`
	User struct {
		Login string `json:"login"`
		Type  string `json:"type"`
	} `json:"user"`
}

func (f *forge) add(login, kind, body string) {
	c := comment{ID: 100 + len(f.comments), Body: body}
	c.User.Login, c.User.Type = login, kind
	f.comments = append(f.comments, c)
}

func (f *forge) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q.Method+" "+q.URL.Path)
	if q.Header.Get("Authorization") != "Bearer ghs_secret" {
		http.Error(w, "{}", http.StatusUnauthorized)
		return
	}
	var in struct{ Body string }
	if q.Method != http.MethodGet {
		b, err := io.ReadAll(io.LimitReader(q.Body, 1<<20))
		if err != nil || json.Unmarshal(b, &in) != nil || len(in.Body) > 65536 {
			http.Error(w, "{}", http.StatusUnprocessableEntity)
			return
		}
		if f.refuses {
			http.Error(w, `{"message": "Resource not accessible by integration"}`, http.StatusForbidden)
			return
		}
	}
	var id int
	switch _, err := fmt.Sscanf(q.URL.Path, "/repos/acme/policy/issues/comments/%d", &id); {
	case q.Method == http.MethodGet && q.URL.Path == "/repos/acme/policy/issues/7/comments":
		page := 1
		fmt.Sscan(q.URL.Query().Get("page"), &page)
		from := min(len(f.comments), (page-1)*100)
		json.NewEncoder(w).Encode(append([]comment{}, f.comments[from:min(len(f.comments), from+100)]...))
	case q.Method == http.MethodPost && q.URL.Path == "/repos/acme/policy/issues/7/comments":
		f.add("github-actions[bot]", "Bot", in.Body)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, "{}")
	case q.Method == http.MethodPatch && err == nil:
		for i := range f.comments {
			if f.comments[i].ID == id {
				f.comments[i].Body = in.Body
			}
		}
		fmt.Fprint(w, "{}")
	default:
		http.NotFound(w, q)
	}
}

// goEnvironment is what the go command needs where there is no home.
func goEnvironment(t *testing.T) (env []string) {
	t.Helper()
	names := []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "CGO_ENABLED", "GOPROXY", "GOTOOLCHAIN"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		env = append(env, names[i]+"="+v)
	}
	return env
}

// review runs the action over what is checked out.
func (r *repository) review(f *forge, inputs map[string]string) *runner {
	r.t.Helper()
	server := httptest.NewServer(f)
	defer server.Close()
	var a action
	readYAML(r.t, filepath.Join(actionDir, "action.yml"), &a)
	path, err := filepath.Abs(actionDir)
	if err != nil {
		r.t.Fatal(err)
	}
	run := &runner{
		t: r.t, dir: r.dir, temp: r.t.TempDir(),
		context: map[string]string{
			"github.token": "ghs_secret", "github.event.pull_request.base.sha": r.main, "github.event.pull_request.number": "7",
			"inputs.policy": policyProgram(r.t),
		},
		env: []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + r.t.TempDir(), "GITHUB_ACTIONS=true", "GITHUB_API_URL=" + server.URL,
			"GITHUB_SERVER_URL=https://github.example", "GITHUB_REPOSITORY=acme/policy", "GITHUB_RUN_ID=42",
		},
	}
	// Go's own directories are the machine's: the runner's home is empty.
	run.env = append(run.env, goEnvironment(r.t)...)
	for k, v := range inputs {
		run.context["inputs."+k] = v
	}
	run.run(a, path)
	return run
}

const bob = `package network

groups: {
	accounting: ["alice@acme.example", {member: "bob@acme.example", until: "2099-12-31T18:00:00Z"}]
	engineering: ["bob@acme.example", "dave@acme.example"]
	it: ["erin@acme.example"]
}

tags: accounting: owners: ["group:it"]
`

const open = `package network

rules: "eng-ledger": {
	from: ["group:engineering"]
	to: ["tag:accounting"]
	allow: ["tcp/80"]
}
`

// TestActionKeepsOneComment: the first run writes it, the next one writes over
// it, whoever else wrote what.
func TestActionKeepsOneComment(t *testing.T) {
	r := newRepository(t, "net")
	f := &forge{t: t}
	mark := "<!-- writ policy: net -->"
	for i := range 120 { // more than a page
		f.add("mallory", "User", fmt.Sprintf("%s\nmine %d", mark, i))
	}
	f.add("other[bot]", "Bot", "unrelated")
	inputs := map[string]string{"directory": "net"}

	r.propose(map[string]string{"net/groups.cue": bob})
	run := r.review(f, inputs)
	if run.failed {
		t.Fatalf("got a failure:\n%s", run.log)
	}
	if n := len(f.comments); n != 122 {
		t.Fatalf("got %d comments, want 122:\n%s", n, run.log)
	}
	first := f.comments[121]
	for _, want := range []string{
		mark + "\n", "✅ Tests pass: 1 person gains access", "| `bob@acme.example` | `tag:accounting` |", "```mermaid",
		"[`groups.cue:4`](https://github.example/acme/policy/blob/" + r.head + "/net/groups.cue#L4)", "https://github.example/acme/policy/actions/runs/42",
	} {
		if !strings.Contains(first.Body, want) {
			t.Errorf("want %q in the comment:\n%s", want, first.Body)
		}
	}
	if got := run.context["steps.review.outputs.result"]; got != "pass" {
		t.Errorf("result: got %q, want pass", got)
	}
	if !strings.Contains(run.summary, "1 person gains access") {
		t.Errorf("got summary %q", run.summary)
	}
	if want := "::notice file=net/groups.cue,line=4,title=access/gained::"; !strings.Contains(run.log, want) {
		t.Errorf("want %q in the log:\n%s", want, run.log)
	}
	report := run.context["steps.review.outputs.report"]
	for _, name := range []string{"report.md", "report.json", "report.html", "junit.xml", "report.sarif", "report.tap", "report.txt"} {
		if info, err := os.Stat(filepath.Join(report, name)); err != nil || info.Size() == 0 {
			t.Errorf("report %s: want a file with something in it (%v)", name, err)
		}
	}

	// The next run finds that somebody has no business there.
	r.propose(map[string]string{"net/open.cue": open})
	run = r.review(f, inputs)
	if !run.failed || run.context["steps.review.outputs.result"] != "fail" {
		t.Errorf("got result %q, want fail:\n%s", run.context["steps.review.outputs.result"], run.log)
	}
	if n := len(f.comments); n != 122 {
		t.Errorf("got %d comments, want 122", n)
	}
	if got := f.comments[121].Body; !strings.Contains(got, "❌ Must not be merged: 1 of 3 tests fails") {
		t.Errorf("got comment\n%s", got)
	}
	for _, c := range f.comments[:121] {
		if strings.Contains(c.Body, "Must not be merged") {
			t.Errorf("wrote over the comment of %s", c.User.Login)
		}
	}
	if want := "::error file=net/tests.cue,"; !strings.Contains(run.log, want) {
		t.Errorf("want %q in the log:\n%s", want, run.log)
	}
	if strings.Contains(run.log+run.summary, "ghs_secret") {
		t.Error("the token is in the log")
	}
}

// TestActionOfAFork: a token that may only read is no failure.
func TestActionOfAFork(t *testing.T) {
	r := newRepository(t, ".")
	r.propose(map[string]string{"groups.cue": bob})
	f := &forge{t: t, refuses: true}
	run := r.review(f, nil)
	if run.failed || !strings.Contains(run.log, "::notice::policy: the token may not write the comment (HTTP 403)") {
		t.Errorf("got failure %t:\n%s", run.failed, run.log)
	}
	if len(f.comments) != 0 || !strings.Contains(run.summary, "1 person gains access") {
		t.Errorf("got %d comments and summary %q", len(f.comments), run.summary)
	}
}

// TestActionBuildsItself: without a program it builds the one of its own commit.
func TestActionBuildsItself(t *testing.T) {
	r := newRepository(t, "")
	files := map[string]string{}
	entries, err := os.ReadDir("../accounting")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			b, err := os.ReadFile(filepath.Join("../accounting", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = string(b)
		}
	}
	r.propose(files) // the first policy: nothing to compare with
	f := &forge{t: t}
	run := r.review(f, map[string]string{"policy": "", "comment": "false"})
	if run.failed || !strings.Contains(run.log, "there is no policy in the base") || !strings.Contains(run.summary, "✅ Tests pass") {
		t.Errorf("got failure %t:\n%s\n%s", run.failed, run.log, run.summary)
	}
	if len(f.asked) > 0 {
		t.Errorf("asked the forge for %q, want nothing without a comment", f.asked)
	}
	if len(run.used) != 2 || !strings.HasPrefix(run.used[0], "actions/setup-go@") || !strings.Contains(run.used[1], "path="+run.context["steps.review.outputs.report"]) {
		t.Errorf("used %q", run.used)
	}
}

// TestActionCannotTell: a policy that does not load, and a program that does not
// run, are told apart from one that passes.
func TestActionCannotTell(t *testing.T) {
	r := newRepository(t, ".")
	r.propose(map[string]string{"bad.cue": "package network\n\nrules: x: {from: [\"group:nobody::error::\"], to: [\"tag:accounting\"], allow: [\"tcp/80\"]}\n"})
	f := &forge{t: t}
	run := r.review(f, nil)
	if !run.failed || run.context["steps.review.outputs.result"] != "unknown" {
		t.Errorf("got result %q, want unknown:\n%s", run.context["steps.review.outputs.result"], run.log)
	}
	if len(f.comments) != 1 || !strings.Contains(f.comments[0].Body, "❌ Cannot tell: the policy does not load") || !strings.Contains(f.comments[0].Body, "bad.cue:3") {
		t.Errorf("got comments %+v", f.comments)
	}
	run = r.review(f, map[string]string{"policy": "/bin/false", "inventory": "x"})
	if !run.failed || len(f.comments) != 1 || !strings.Contains(f.comments[0].Body, "Cannot tell: see the log") {
		t.Errorf("got comments %+v", f.comments)
	}
}

// TestActionObeysNobodysText: what the author of a change wrote is no command to
// the runner, wherever it comes to stand.
func TestActionObeysNobodysText(t *testing.T) {
	r := newRepository(t, ".")
	evil := "::error file=x::EVIL"
	r.propose(map[string]string{
		"open.cue":  strings.Replace(open, "eng-ledger", "a", 1),
		"tests.cue": fmt.Sprintf("package network\n\ntests: %q: allow: [{from: \"alice@acme.example\", to: \"tag:accounting\", on: [\"tcp/9\"]}]\n", strings.Repeat("x", 78)+" "+evil),
	})
	run := r.review(&forge{t: t}, nil)
	stopped, obeyed := "", 0
	for line := range strings.Lines(run.log) {
		line = strings.TrimSpace(line)
		switch {
		case stopped != "":
			if line == "::"+stopped+"::" {
				stopped = ""
			}
		case strings.HasPrefix(line, "::stop-commands::"):
			if stopped = strings.TrimPrefix(line, "::stop-commands::"); len(stopped) != 32 {
				t.Errorf("token: got %q", stopped)
			}
		case strings.HasPrefix(line, "::") || strings.Contains(line, "##["):
			obeyed++
			if strings.HasPrefix(line, evil) {
				t.Errorf("a runner would obey %q", line)
			}
		}
	}
	if stopped != "" || obeyed == 0 || !strings.Contains(run.log, "EVIL") {
		t.Errorf("got %d commands, stopped %q:\n%s", obeyed, stopped, run.log)
	}
}

// TestActionIsPinned: others' actions are named by commits, with the version
// beside.
func TestActionIsPinned(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(actionDir, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	uses := regexp.MustCompile(`(?m)^\s+uses: (.*)$`).FindAllStringSubmatch(string(b), -1)
	if len(uses) == 0 {
		t.Fatal("got no actions")
	}
	for _, u := range uses {
		if !regexp.MustCompile(`^[a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9.]+$`).MatchString(u[1]) {
			t.Errorf("uses %q: want a commit, and the version behind it", u[1])
		}
	}
	if strings.Contains(string(b), "secrets.") {
		t.Error("wants a secret")
	}
	for _, name := range []string{"review.sh", "comment.sh"} {
		info, err := os.Stat(filepath.Join(actionDir, name))
		if err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s: want a program (%v)", name, err)
		}
		if out, err := exec.Command("bash", "-n", filepath.Join(actionDir, name)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// A job is what GitLab reads of the template's jobs.
type job struct {
	Stage, Image string
	Needs        []map[string]any
	Variables    map[string]string
	Rules        []map[string]string
	BeforeScript []string `yaml:"before_script"`
	Script       []string
	Artifacts    struct {
		When     string
		ExposeAs string `yaml:"expose_as"`
		Paths    []string
		Reports  map[string]string
	}
}

type pipeline struct {
	Variables map[string]string
	Policy    job
	Note      job `yaml:"policy-note"`
}

// perform runs a job's scripts as GitLab's runner does: each entry in turn, in one
// shell that ends at the first failure.
func (r *repository) perform(p pipeline, j job, shell string, variables map[string]string) (log string, err error) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), shell, "-c", "if set -o | grep pipefail >/dev/null; then set -o pipefail; fi\nset -o errexit\n"+strings.Join(slices.Concat(j.BeforeScript, j.Script), "\n"))
	cmd.Dir = r.dir
	cmd.Env = []string{"PATH=" + filepath.Dir(policyProgram(r.t)) + ":" + os.Getenv("PATH"), "HOME=" + r.t.TempDir()}
	for _, m := range []map[string]string{p.Variables, j.Variables, variables} {
		for k, v := range m {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestGitLabTemplate: the job writes what the merge request shows, the note is
// written once and then over.
func TestGitLabTemplate(t *testing.T) {
	var p pipeline
	readYAML(t, "gitlab/policy.gitlab-ci.yml", &p)
	r := newRepository(t, ".")
	r.propose(map[string]string{"groups.cue": bob})

	var mu sync.Mutex
	var notes []map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if q.Header.Get("PRIVATE-TOKEN") != "glpat-secret" {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		var in map[string]any
		if q.Method != http.MethodGet {
			if err := json.NewDecoder(q.Body).Decode(&in); err != nil {
				http.Error(w, "{}", http.StatusBadRequest)
				return
			}
		}
		var id int
		_, err := fmt.Sscanf(q.URL.Path, "/projects/3/merge_requests/7/notes/%d", &id)
		switch {
		case q.URL.Path == "/user":
			fmt.Fprint(w, `{"id": 11}`)
		case q.Method == http.MethodGet:
			json.NewEncoder(w).Encode(append([]map[string]any{{"id": 1, "body": "<!-- writ policy: . -->\nmine", "author": map[string]any{"id": 12}}}, notes...))
		case q.Method == http.MethodPost:
			notes = append(notes, map[string]any{"id": 50 + len(notes), "body": in["body"], "author": map[string]any{"id": 11}})
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, "{}")
		case q.Method == http.MethodPut && err == nil && id == 50:
			notes[0]["body"] = in["body"]
			fmt.Fprint(w, "{}")
		default:
			http.NotFound(w, q)
		}
	}))
	defer server.Close()
	variables := map[string]string{
		"CI_MERGE_REQUEST_DIFF_BASE_SHA": r.main, "CI_PROJECT_URL": "https://gitlab.example/acme/policy", "CI_JOB_URL": "https://gitlab.example/acme/policy/-/jobs/9",
		"CI_API_V4_URL": server.URL, "CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "7", "POLICY_NOTE_TOKEN": "glpat-secret",
	}
	log, err := r.perform(p, p.Policy, "bash", variables)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for _, name := range append(slices.Clone(p.Policy.Artifacts.Paths), p.Policy.Artifacts.Reports["junit"], p.Policy.Artifacts.Reports["codequality"], "policy-report/report.html") {
		if info, err := os.Stat(filepath.Join(r.dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("artifact %s: want something there (%v)", name, err)
		}
	}
	var quality []map[string]any
	b, err := os.ReadFile(filepath.Join(r.dir, p.Policy.Artifacts.Reports["codequality"]))
	if err != nil || json.Unmarshal(b, &quality) != nil || len(quality) == 0 {
		t.Errorf("code quality report: got %s (%v)", b, err)
	}
	for range 2 {
		if log, err := r.perform(p, p.Note, "sh", variables); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
	}
	if len(notes) != 1 || !strings.Contains(fmt.Sprint(notes[0]["body"]), "1 person gains access") {
		t.Errorf("got notes %v, want one", notes)
	}

	// A policy that does not pass fails the job, and leaves its reports.
	r.propose(map[string]string{"open.cue": open})
	log, err = r.perform(p, p.Policy, "bash", variables)
	if err == nil || !strings.Contains(log, "1 of 3 tests failed") {
		t.Errorf("got %v\n%s", err, log)
	}
	if log, err := r.perform(p, p.Note, "sh", variables); err != nil || !strings.Contains(fmt.Sprint(notes[0]["body"]), "Must not be merged") {
		t.Errorf("got %v, note %v\n%s", err, notes[0]["body"], log)
	}
}
