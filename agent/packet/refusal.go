package packet

// A Refusal says why a packet is not to be judged at all. The list is closed
// and only grows at its end.
type Refusal uint8

// The refusals.
const (
	Whole           Refusal = iota // none: the headers are sound
	Truncated                      // the buffer ends before a header or a claimed length does
	Trailing                       // bytes behind the claimed length
	BadVersion                     // neither IPv4 nor IPv6
	BadHeaderLength                // an IPv4 header shorter than 20 bytes
	BadOptions                     // an option that runs past its header
	SourceRoute                    // an IPv4 source route or an IPv6 home address
	RoutingHeader                  // IPv6 routing of type 0 or with segments left
	Jumbogram                      // longer than 65,535 bytes of IPv6 payload
	BadChain                       // IPv6 headers where they must not be, or twice
	LongChain                      // more IPv6 headers than a host sends
	BadFragment                    // a fragment that lies where none can
	TinyFragment                   // a first fragment without its transport header
	MappedAddress                  // an IPv4 address inside an IPv6 header
	WrongFamily                    // ICMP in IPv6 or ICMPv6 in IPv4
	BadTransport                   // a TCP or UDP header that contradicts itself
	refusals
)

// Refusals is the number of refusals, Whole included.
const Refusals = int(refusals)

var refusalNames = [refusals]string{
	"whole", "truncated", "trailing bytes", "bad version", "bad header length", "bad options", "source route",
	"routing header", "jumbogram", "bad header chain", "long header chain", "bad fragment", "tiny fragment",
	"mapped address", "wrong ICMP family", "bad transport header",
}

func (r Refusal) String() string {
	if r >= refusals {
		return "unknown refusal"
	}
	return refusalNames[r]
}
