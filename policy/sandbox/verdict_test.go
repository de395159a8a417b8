package sandbox

import (
	"strings"
	"testing"
)

func TestDiagnose(t *testing.T) {
	for _, v := range []struct {
		printed, cause string
		memory         bool
	}{
		{"", "", false},
		{"hello\nworld\n", "", false},
		{"runtime: out of memory: cannot allocate 4194304-byte block (520093696 in use)\nfatal error: out of memory\n\ngoroutine 1 [running]:\n", "runtime: out of memory: cannot allocate 4194304-byte block (520093696 in use)", true},
		{"fatal error: runtime: cannot allocate memory\n", "fatal error: runtime: cannot allocate memory", true},
		{"runtime: goroutine stack exceeds 67108864-byte limit\nfatal error: stack overflow\n", "runtime: goroutine stack exceeds 67108864-byte limit", true},
		{"==7==ERROR: ThreadSanitizer failed to allocate 0x1000 (4096) bytes at address 0 (error code: 12)\n", "==7==ERROR: ThreadSanitizer failed to allocate 0x1000 (4096) bytes at address 0 (error code: 12)", true},
		{"runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT: abort\nPC=0x1 m=6 sigcode=1\n", "runtime/cgo: pthread_create failed: Resource temporarily unavailable", true},
		{"noise\npanic: a\npanic: b\n", "panic: a", false},
		{"fatal error: all goroutines are asleep - deadlock!\n", "fatal error: all goroutines are asleep - deadlock!", false},
		// A policy that prints the words does not change the verdict on another end.
		{"x fatal error: out of memory\n", "", false},
	} {
		if cause, memory := diagnose(v.printed); cause != v.cause || memory != v.memory {
			t.Errorf("%q: got %q, %v; want %q, %v", v.printed, cause, memory, v.cause, v.memory)
		}
	}
}

func TestOutputKeepsBothEnds(t *testing.T) {
	var o output
	var model strings.Builder
	for i := range 3000 {
		line := strings.Repeat(string(rune('a'+i%26)), i%97) + "\n"
		model.WriteString(line)
		if n, err := o.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("write: got %d, %v", n, err)
		}
	}
	whole := model.String()
	want := whole[:headSize] + "\n[…]\n" + whole[len(whole)-tailSize:]
	if got := o.String(); got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	var small output
	small.Write([]byte(whole[:headSize+tailSize]))
	if got := small.String(); got != whole[:headSize+tailSize] {
		t.Errorf("all of it fits: got %d bytes, want %d", len(got), headSize+tailSize)
	}
}
