package main

import (
	"bytes"
	"testing"
)

func TestVersion(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := command(t.Context(), []string{"--version"}, &stdout, &stderr)
	if code != 0 || stdout.String() != version+"\n" || stderr.Len() != 0 {
		t.Errorf("got exit code %d, %q, %q, want 0 and %q alone", code, stdout.String(), stderr.String(), version+"\n")
	}
}
