//go:build !race && linux

package router

const scale = 1
