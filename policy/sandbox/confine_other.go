//go:build !linux || !(amd64 || arm64)

package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// confinable says why no process can be confined here.
func confinable() error {
	return fmt.Errorf("there is no system-call filter for %s/%s", runtime.GOOS, runtime.GOARCH)
}

func confine(setup) error { return confinable() }

func attributes() *syscall.SysProcAttr { return nil }

func killed(*os.ProcessState) bool { return false }

func residentPeak(*os.ProcessState) int64 { return 0 }
