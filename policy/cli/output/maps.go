package output

import "github.com/writmesh/writ/policy/reach"

// Maps is all access before a change and after it, each in the policy's words.
type Maps struct {
	Before, After []reach.Change
}
