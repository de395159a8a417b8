// Package examples holds policy repositories that run. Each folder with .cue
// files is one: "policy test examples/accounting".
package examples

import "embed"

// Accounting is the policy repository of the demo.
//
//go:embed accounting
var Accounting embed.FS
