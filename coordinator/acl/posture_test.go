package acl

import (
	"encoding/json"
	"strings"
	"testing"
)

func posture(t testing.TB, text string) Posture {
	t.Helper()
	var ps Postures
	if err := json.Unmarshal([]byte("["+text+"]"), &ps); err != nil {
		t.Fatal(err)
	}
	return ps[0]
}

func TestPostureMet(t *testing.T) {
	reported := map[string]string{"os": "macos", "osVersion": "14.2.1", "agentVersion": "devel", "custom:disk": "true", "custom:zero": "1.0.0", "custom:huge": "99999999999"}
	for text, want := range map[string]bool{
		`[{"attr":"os","op":"in","values":["linux","macos"]}]`:                                                    true,
		`[{"attr":"os","op":"in","values":["linux"]}]`:                                                            false,
		`[{"attr":"os","op":"in","values":["Macos"]}]`:                                                            false,
		`[{"attr":"os","op":"not in","values":["linux"]}]`:                                                        true,
		`[{"attr":"os","op":"not in","values":["linux","macos"]}]`:                                                false,
		`[{"attr":"custom:edr","op":"not in","values":["x"]}]`:                                                    false, // not reported
		`[{"attr":"custom:disk","op":"set"}]`:                                                                     true,
		`[{"attr":"custom:edr","op":"set"}]`:                                                                      false,
		`[{"attr":"osVersion","op":">=","values":["14"]}]`:                                                        true,
		`[{"attr":"osVersion","op":">=","values":["14.2.1"]}]`:                                                    true,
		`[{"attr":"osVersion","op":">","values":["14.2.1"]}]`:                                                     false,
		`[{"attr":"osVersion","op":"<","values":["14.10"]}]`:                                                      true,
		`[{"attr":"osVersion","op":"<=","values":["14.2"]}]`:                                                      false,
		`[{"attr":"osVersion","op":">","values":["9"]}]`:                                                          true, // numbers, not letters
		`[{"attr":"custom:zero","op":">=","values":["1"]},{"attr":"custom:zero","op":"<=","values":["1.0.0.0"]}]`: true,
		`[{"attr":"agentVersion","op":">=","values":["0"]}]`:                                                      false, // no version
		`[{"attr":"agentVersion","op":"<","values":["99"]}]`:                                                      false,
		`[{"attr":"custom:huge","op":">","values":["1"]}]`:                                                        false, // too large to compare
		`[{"attr":"os","op":"in","values":["macos"]},{"attr":"osVersion","op":"<","values":["14"]}]`:              false, // all of them
		`[{"attr":"os","op":"in","values":["macos"]},{"attr":"osVersion","op":"<","values":["15"]}]`:              true,
		`[{"attr":"os","op":"in","values":["macos"]},{"attr":"custom:edr","op":"in","values":["a"]}]`:             false,
	} {
		if got := posture(t, text).Met(reported); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
		if posture(t, text).Met(nil) {
			t.Errorf("%s: met by a node that reports nothing", text)
		}
	}
	if (Posture{}).Met(reported) || (Posture{{Attr: "os", Op: "like", Values: []string{"macos"}}}).Met(reported) || (Posture{{Attr: "osVersion", Op: OpLeast}}).Met(reported) {
		t.Error("a posture that is wrong is met")
	}
}

func TestPostureRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`null`:                                 "posture: an empty list",
		`[]`:                                   "posture: an empty list",
		`[[]]`:                                 "a posture without conditions",
		`[null]`:                               "a posture without conditions",
		`[[{"attr":"hostname","op":"set"}]]`:   "unknown attribute",
		`[[{"attr":"custom:","op":"set"}]]`:    "want custom:NAME",
		`[[{"attr":"custom:a b","op":"set"}]]`: "is not allowed",
		`[[{"attr":"os","op":"in"}]]`:          "0 values, want 1",
		`[[{"attr":"os","op":"set","values":["x"]}]]`:              "1 values, want 0",
		`[[{"attr":"os","op":"like","values":["x"]}]]`:             "unknown comparison",
		`[[{"attr":"osVersion","op":">=","values":["1","2"]}]]`:    "2 values, want 1",
		`[[{"attr":"osVersion","op":">=","values":["fourteen"]}]]`: "want a version",
		`[[{"attr":"os","op":"in","values":[""]}]]`:                "attribute value of 0 bytes",
		`[[{"attr":"os","op":"in","values":["x"],"not":true}]]`:    "unknown field",
	} {
		var ps Postures
		if err := json.Unmarshal([]byte(text), &ps); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
