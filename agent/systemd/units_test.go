package systemd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A unit is a unit file, with what must be true of it.
type unit struct {
	name   string
	manual string // the file whose package comment is the program's manual
	caps   string // the only capabilities
	device string // the only device
	kind   string // Type
	again  string // Restart
	score  string // the exposure that systemd-analyze may find at most, times ten
}

// The scores are those of the units when they were written; a directive that is
// taken away raises one. An unconfined service has 96. The agent's has four lines
// that systemd does not count in a service that starts before most others.
var units = []unit{
	{"writ-agent", "../main.go", "CAP_NET_ADMIN", "/dev/net/tun rw", "notify", "on-failure", "20"},
	{"writ-relay", "../../relay/main.go", "CAP_NET_BIND_SERVICE", "", "exec", "always", "16"},
	{"writ-coordinator", "../../coordinator/main.go", "", "", "exec", "always", "12"},
	{"writ-sync", "../../sync/main.go", "", "", "exec", "always", "12"},
}

// A setting is one line of a unit.
type setting struct{ section, key, value string }

// parse reads a unit file as systemd.syntax(7) says, as far as these units use it.
func parse(t *testing.T, name string) []setting {
	t.Helper()
	text, err := os.ReadFile(name + ".service")
	if err != nil {
		t.Fatal(err)
	}
	var out []setting
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || strings.ContainsAny(key, " \t") || strings.HasSuffix(value, `\`) {
				t.Fatalf("%s.service:%d: %q is no setting in a section", name, i+1, line)
			}
			out = append(out, setting{section, key, value})
		}
	}
	return out
}

// known are the settings of systemd.unit(5), systemd.service(5) and
// systemd.exec(5) that the units use. Systemd itself only warns of one that it
// does not know: a slip of the pen would take protection away without a word.
var known = map[string][]string{
	"Unit": {"Description", "Documentation", "DefaultDependencies", "Wants", "Before", "Conflicts", "After", "StartLimitIntervalSec"},
	"Service": {
		"Type", "Environment", "EnvironmentFile", "ExecStart", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "User", "DynamicUser",
		"StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode", "LimitNOFILE", "LimitCORE", "UMask",
		"NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp",
		"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "ProtectControlGroups", "ProtectHostname",
		"ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProcSubset", "PrivateUsers",
		"RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
		"MemoryDenyWriteExecute", "RemoveIPC", "KeyringMode", "SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber",
	},
	"Install": {"WantedBy"},
}

func TestUnits(t *testing.T) {
	files, err := filepath.Glob("*.service")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(units) {
		t.Errorf("there are %q, want the %d units that this test knows", files, len(units))
	}
	for _, u := range units {
		seen := make(map[string]string)
		for _, s := range parse(t, u.name) {
			if !slices.Contains(known[s.section], s.key) {
				t.Errorf("%s: %s in section %s is not known", u.name, s.key, s.section)
			}
			if _, twice := seen[s.key]; twice && s.key != "SystemCallFilter" {
				t.Errorf("%s: %s is there twice", u.name, s.key)
			}
			seen[s.key] = strings.TrimPrefix(seen[s.key]+"\n"+s.value, "\n")
		}
		for key, want := range map[string]string{
			"CapabilityBoundingSet": u.caps, "AmbientCapabilities": u.caps, "NoNewPrivileges": "yes", "ProtectSystem": "strict",
			"MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes", "SystemCallArchitectures": "native",
			"DeviceAllow": u.device, "Restart": u.again, "Type": u.kind, "StartLimitIntervalSec": "0",
		} {
			if got, there := seen[key]; got != want || !there && key != "DeviceAllow" {
				t.Errorf("%s: %s is %q, want %q", u.name, key, got, want)
			}
		}
		if (seen["User"] == "") == (seen["DynamicUser"] == "") || seen["User"] == "root" {
			t.Errorf("%s: User is %q and DynamicUser %q, want one of them, and not root", u.name, seen["User"], seen["DynamicUser"])
		}
		if user := seen["User"]; user != "" {
			if text, err := os.ReadFile("writ.sysusers"); err != nil || !strings.Contains(string(text), "\nu "+user+" ") {
				t.Errorf("%s: user %s is not made by writ.sysusers (%v)", u.name, user, err)
			}
		}
		command := strings.Fields(seen["ExecStart"])
		if len(command) == 0 || command[0] != "/usr/local/bin/"+u.name {
			t.Errorf("%s: ExecStart is %q, want /usr/local/bin/%s with its flags", u.name, seen["ExecStart"], u.name)
			continue
		}
		checkFlags(t, u, append(command[1:], flagsInComment(t, u.name)...))
	}
}

// The agent comes before the network, and waits for nothing that may itself wait
// for the network: where it did, systemd would start one of the two without the
// other.
func TestAgentIsBeforeTheNetwork(t *testing.T) {
	got := make(map[string]string)
	for _, s := range parse(t, "writ-agent") {
		if s.section == "Unit" {
			got[s.key] = s.value
		}
	}
	for key, want := range map[string]string{
		"DefaultDependencies": "no", "Wants": "network-pre.target", "Before": "network-pre.target", "Conflicts": "shutdown.target",
	} {
		if !slices.Contains(strings.Fields(got[key]), want) {
			t.Errorf("%s is %q, want %s in it", key, got[key], want)
		}
	}
	for _, after := range strings.Fields(got["After"]) {
		switch after {
		case "local-fs.target", "systemd-sysusers.service", "systemd-tmpfiles-setup-dev.service", "nftables.service":
		default:
			t.Errorf("it is after %s, want nothing but what precedes the network everywhere", after)
		}
	}
}

// flagsInComment returns the flags that a unit's comment tells people to write.
func flagsInComment(t *testing.T, name string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(name + ".service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#   ") {
			out = append(out, regexp.MustCompile(`--[a-z-]+`).FindAllString(line, -1)...)
		}
	}
	return out
}

// checkFlags looks for the flags in the program's manual.
func checkFlags(t *testing.T, u unit, words []string) {
	t.Helper()
	text, err := os.ReadFile(u.manual)
	if err != nil {
		t.Fatal(err)
	}
	manual, _, ok := strings.Cut(string(text), "\npackage main")
	if !ok {
		t.Fatalf("%s has no manual before its package clause", u.manual)
	}
	for _, w := range words {
		if strings.HasPrefix(w, "--") && !regexp.MustCompile(regexp.QuoteMeta(w)+`\b`).MatchString(manual) {
			t.Errorf("%s: the manual of %s does not know %s", u.name, u.manual, w)
		}
	}
}

// Systemd's own program reads the units and scores them.
func TestSystemdAgrees(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("systemd-analyze is not installed: NOT COMPARED with what it says")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, u := range units {
		// It wants to see the program.
		program := filepath.Join(dir, u.name)
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(u.name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, u.name+".service")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/", dir+"/")), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: systemd-analyze verify: %v\n%s", u.name, err, out)
		}
		if out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold="+u.score, file).CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			t.Errorf("%s: systemd-analyze security finds more than %s tenths: %v\n%s", u.name, u.score, err, lines[len(lines)-1])
		}
	}
}

// make install writes the path under which it installs. Its lines for the units
// are run here as make prints them; those before build and install the programs.
func TestInstalled(t *testing.T) {
	program, err := exec.LookPath("make")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("make is not installed: NOT TRIED")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	dry := exec.Command(program, "--no-print-directory", "-n", "install", "DESTDIR="+dir, "PREFIX=/opt/writ", "VERSION=test")
	dry.Dir = "../.."
	recipe, err := dry.Output()
	if err != nil {
		t.Fatalf("make -n install: %v\n%s", err, recipe)
	}
	_, lines, ok := strings.Cut(string(recipe), "install -d '"+dir+"/opt/writ/lib/")
	if !ok {
		t.Fatalf("make install makes no directory for units:\n%s", recipe)
	}
	run := exec.Command("bash", "-euc", "install -d '"+dir+"/opt/writ/lib/"+lines)
	run.Dir = "../.."
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("make install, the part about units: %v\n%s", err, out)
	}
	for _, u := range units {
		got, err := os.ReadFile(filepath.Join(dir, "opt/writ/lib/systemd/system", u.name+".service"))
		if err != nil {
			t.Error(err)
			continue
		}
		if text := string(got); !strings.Contains(text, "ExecStart=/opt/writ/bin/"+u.name+" ") || strings.Contains(text, "/usr/local/bin/") {
			t.Errorf("the installed %s does not name /opt/writ/bin alone", u.name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "opt/writ/lib/sysusers.d/writ.conf")); err != nil {
		t.Error(err)
	}
}
