// Package model is a policy repository in Go, and the only way from CUE to it.
package model
