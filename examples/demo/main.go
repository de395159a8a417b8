// Demo tells how a pull request changes who can reach the accounting servers,
// with everything real: five programs, four nodes, a policy repository with
// signed commits. It needs no privileges, uses loopback and a temporary directory
// only, and leaves nothing behind.
//
// Usage:
//
//	demo [-bin DIR] [-keep]
//
//	-bin DIR   where policy, sync, coordinator, agent and relay are (default bin)
//	-keep      keep the temporary directory, and say where it is
//
// Exit codes: 0 everything happened as told; 1 something did not, and what the
// programs logged is shown.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/writmesh/writ/policy/build"
)

// limit is how long the demo may take before it says that it hangs.
const limit = 3 * time.Minute

func main() {
	build.Child() // the hostile coordinator compiles a commit again
	bin := flag.String("bin", "bin", "where the programs are")
	keep := flag.Bool("keep", false, "keep the temporary directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took more than %s", limit))
	defer cancel()
	if err := run(ctx, *bin, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\n  The demo failed: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// run stages the story and cleans up after it, however it ends.
func run(ctx context.Context, bin string, keep bool) (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "writ-demo-*")
	if err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	s := &stage{dir: dir, bin: bin}
	defer func() {
		s.close()
		if err != nil {
			s.tails()
		}
		if keep {
			fmt.Printf("  kept: %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	st, err := newStory(ctx, s)
	if err != nil {
		return err
	}
	if err := st.tell(ctx); err != nil {
		return err
	}
	fmt.Printf("\n  Done in %.0f s. Everything ran as you; nothing was left behind.\n", time.Since(began).Seconds())
	fmt.Println("  Next: README.md, \"Run it for real\"")
	return nil
}
