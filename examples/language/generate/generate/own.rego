# Every group reaches the servers that are called as it is.
package generate.own

rules[sprintf("own-%s", [group.name])] := {
	"from": [sprintf("group:%s", [group.name])],
	"to": [sprintf("tag:%s", [tag.name])],
	"allow": ["tcp/443", "icmp"],
	"why": "every team reaches its own servers",
	"origin": [group.place, tag.place],
} if {
	some group in input.network.groups
	some tag in input.network.tags
	group.name == tag.name
}
