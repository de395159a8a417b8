// Agent makes a machine a node of a Writ network.
//
// Usage:
//
//	agent up [--join STRING] [flags]
//	agent status [--json] [--wait]
//	agent ping PEER [-c N] [--icmp] [--json]
//	agent netcheck [--json]
//	agent whois IP[:PORT] [--json]
//	agent id
//	agent down
//	agent cleanup
//	agent --version
//
// Up runs the agent until it is told to go down. The first time it needs the
// network's join string; it keeps it in the state directory. A node joins because
// the policy pins its identity key ("agent id" prints it), or with an enrolment
// secret that an administrator hands out.
//
// It makes a network interface (writ0) with the node's addresses and routes to
// its peers, for which it needs CAP_NET_ADMIN and nothing else. When it ends,
// however it ends, routes remain that answer "no route to host" for the peers'
// addresses: nothing that was meant for the mesh leaves the machine in clear.
// Cleanup removes them. With --userspace it needs no privileges and touches
// nothing: local programs reach the mesh through its proxy (SOCKS5 and HTTP), and
// --forward hands ports of the mesh address to local servers.
//
// Packets go by relay at first, and directly as soon as a direct path has been
// proved. Ping probes the path that data takes and shows the moment of the
// upgrade, or why there is none; it needs no rule. Netcheck measures what kind of
// NAT the machine is behind.
//
// The other commands talk to the running agent. Down returns when it has ended.
//
// Flags of every command:
//
//	--state DIR        the agent's state (default $STATE_DIRECTORY, else
//	                   $XDG_STATE_HOME/writ, else /var/lib/writ, where the
//	                   service has it, if the command is not up and may read
//	                   it, else ~/.local/state/writ)
//	--socket PATH      the local API (default DIR/agent.sock; if there is none,
//	                   /run/writ/agent.sock, where the service has it)
//
// Flags of up:
//
//	--join STRING      the network's join string, or the name of a file with it
//	--name NAME        the name to ask for (default: this machine's)
//	--secret-file F    enrolment secret; also read from the file that the join
//	                   string names
//	--interface NAME   the network interface to make (default writ0)
//	--port PORT        UDP port for direct paths (default: any that is free)
//	--no-direct        send by relay only
//	--no-nftables      go without nftables where the kernel has none: neighbours on
//	                   the LAN can then reach the mesh address past the filter
//	--userspace        run without privileges and without a network interface
//	--proxy ADDR       in userspace, where the proxy listens (default
//	                   127.0.0.1:1055; "" for none)
//	--forward SPEC     in userspace, tcp/PORT=ADDRESS:PORT; may be repeated
//	--log LEVEL        debug, info, warn or error (default info)
//
// Files in DIR: identity.key and wireguard.key (0600, never sent); netmap.state,
// record.state and flows.state (checksummed, replaced whole); join, lock,
// agent.sock.
//
// Exit codes: 0 done; 1 the answer is no (ping unanswered, address unknown, node
// not up); 2 usage, or the agent could not do it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is stamped by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
