// Package systemd holds the units by which systemd runs Writ's programs, and the
// test that they say what they should; and Notify, by which a program tells
// systemd that it is ready.
//
// Each unit gives its program what it needs and no more: one directory for its
// state, at most one capability, no device but the agent's TUN device, no other
// user's files, and the system calls of an ordinary service. What must be known
// to use it stands at its top.
//
// The agent's unit comes before the machine's network, so that there is no moment
// at which the mesh's addresses are reached or left in clear: the network waits
// until the agent has put in force what it knew last, or has found that it knows
// nothing.
//
// The units name programs in /usr/local/bin; "make install" writes the PREFIX
// that it is given in its place.
package systemd
