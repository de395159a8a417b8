package main

import (
	"os"
	"path/filepath"
	"strings"
)

// Where the agent that the machine's service manager runs has its state and its
// local API (agent/systemd).
const (
	serviceState  = "/var/lib/writ"
	serviceSocket = "/run/writ/agent.sock"
)

// defaultState is where an agent keeps its state that is told nothing else. A
// command about an agent finds the service's, if the caller may read it. One that
// becomes an agent does not: files that it made as root the service could not
// read.
func defaultState(about bool, service string) string {
	// systemd.exec(5) has a list with colons between, of as many directories as
	// the unit names.
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "writ")
	}
	if about {
		if _, err := os.ReadDir(service); err == nil {
			return service
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "writ")
	}
	return filepath.Join(home, ".local", "state", "writ")
}
