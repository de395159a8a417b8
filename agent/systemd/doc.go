// Package systemd holds the units by which systemd runs Writ's programs, and the
// test that they say what they should. It has no code.
//
// Each unit gives its program what it needs and no more: one directory for its
// state, at most one capability, no device but the agent's TUN device, no other
// user's files, and the system calls of an ordinary service. What must be known
// to use it stands at its top.
//
// The units name programs in /usr/local/bin; "make install" writes the PREFIX
// that it is given in its place.
package systemd
