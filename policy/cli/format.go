package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/writmesh/writ/policy/cli/output"
	"github.com/writmesh/writ/policy/reach"
	"github.com/writmesh/writ/policy/source"
)

// formats are the flags of verbs whose report programs read, too: CI systems,
// and the pull request that a change is reviewed on.
type formats struct {
	Format  string   `enum:"text,json,markdown,github,gitlab,junit,tap,sarif" default:"text" placeholder:"FORMAT" help:"How to write the report: text, json, markdown (a comment on a pull request), github (annotations), gitlab (code quality), junit, tap or sarif."`
	JSON    bool     `name:"json" help:"The same as --format json."`
	Write   []string `sep:"none" placeholder:"FORMAT=FILE" help:"Write the report to FILE in this format, too; html is one more. May be given several times."`
	Link    string   `placeholder:"URL" help:"Address of the repository's files without a revision, as https://github.com/acme/policy/blob; places in Markdown link there."`
	Details string   `placeholder:"URL" help:"Address of the whole report, which what is cut short refers to."`
}

// A written is a file that a report goes to, besides standard output.
type written struct{ format, file string }

// check refuses flags before any work is done for them.
func (f *formats) check() (out []written, err error) {
	if f.JSON {
		if f.Format != "text" && f.Format != "json" {
			return nil, fmt.Errorf("--json and --format %s: want one of them", f.Format)
		}
		f.Format = "json"
	}
	for _, w := range f.Write {
		format, file, ok := strings.Cut(w, "=")
		if !ok || file == "" || !output.Known(format) {
			return nil, fmt.Errorf("--write %q: want FORMAT=FILE; formats are %s", w, strings.Join(output.Formats, ", "))
		}
		out = append(out, written{format, file})
	}
	for _, a := range []struct{ flag, address string }{{"--link", f.Link}, {"--details", f.Details}} {
		if a.address == "" {
			continue
		}
		u, err := url.Parse(a.address)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, fmt.Errorf("%s %q: want an address that begins with https://", a.flag, a.address)
		}
	}
	return out, nil
}

// report writes a report, first to files and then to standard output. It is
// errReport where there is something to report.
func (f *formats) report(e *env, r *output.Report) error {
	files, err := f.check()
	if err != nil {
		return err
	}
	r.Version, r.Details = e.version, f.Details
	for _, o := range []*output.Origin{&r.Base, &r.Head} {
		if f.Link != "" && o.Commit != "" {
			o.Link = strings.TrimRight(f.Link, "/") + "/" + o.Commit
		}
	}
	for _, w := range files {
		if err := replaceFile(w.file, func(file *os.File) error { return output.Write(file, w.format, r) }); err != nil {
			return fmt.Errorf("write %s: %w", w.file, err)
		}
	}
	if err := output.Write(e.stdout, f.Format, r); err != nil {
		return err
	}
	if r.Something() {
		return errReport
	}
	return nil
}

// unknown writes why something could not be told in every format that a program
// reads, and returns that. People read it on standard error.
func (f *formats) unknown(e *env, verb string, head output.Origin, why error) error {
	if f.Format == "text" && !f.JSON && len(f.Write) == 0 {
		return why
	}
	to := e
	if f.Format == "text" && !f.JSON {
		quiet := *e
		quiet.stdout = noWriter{}
		to = &quiet
	}
	r := &output.Report{Verb: verb, Unknown: why.Error(), Problems: asProblems(why), Head: head}
	return errors.Join(why, f.report(to, r))
}

type noWriter struct{}

func (noWriter) Write(b []byte) (int, error) { return len(b), nil }

// maps is all access before and after a change, where a page is asked for.
func (f *formats) maps(base, head reach.Side, at time.Time) *output.Maps {
	for _, w := range f.Write {
		if strings.HasPrefix(w, "html=") {
			return &output.Maps{
				Before: reach.Diff(reach.Side{}, base, at).Gained,
				After:  reach.Diff(reach.Side{}, head, at).Gained,
			}
		}
	}
	return nil
}

// origin is where a tree that was read from a directory, or from the repository
// that it is in, comes from.
func origin(dir string, tree source.Tree) output.Origin {
	o := output.Origin{Label: tree.Label}
	if tree.Commit != nil {
		o.Commit = tree.Commit.Hash
	}
	if repo, err := source.Open(dir); err == nil && repo.Below() != "." {
		o.Prefix = repo.Below()
	}
	return o
}

// replaceFile writes a file whole or not at all. What is no plain file, as a
// pipe, is written to as it is.
func replaceFile(name string, write func(*os.File) error) (err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".report-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
