package rego

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// builtins are the functions a guard may call: pure, and of a cost that follows
// the size of their arguments. What is not here is refused by name, also where
// "with" would put it in another's place. Left out of what looks harmless:
// rego.metadata (comments must not steer), net.cidr_expand and units.parse_bytes
// (a few bytes ask for gigabytes), crypto.x509, json.match_schema and graphql
// (parsers without a use here).
var builtins = strings.Fields(`
	eq equal neq lt lte gt gte assign
	plus minus mul div rem abs ceil floor round
	and or intersection union
	count sum product max min sort
	array.concat array.flatten array.reverse array.slice
	object.filter object.get object.keys object.remove object.subset object.union object.union_n
	bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor
	numbers.range numbers.range_step
	concat contains endswith startswith format_int indexof indexof_n lower upper
	replace split sprintf substring to_number trim trim_left trim_prefix trim_right trim_space trim_suffix
	strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n strings.reverse strings.split_n
	regex.find_n regex.find_all_string_submatch_n regex.is_valid regex.match regex.replace regex.split
	glob.match glob.quote_meta
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	json.filter json.is_valid json.marshal json.patch json.remove json.unmarshal
	base64.decode base64.encode base64.is_valid base64url.decode base64url.encode hex.decode hex.encode
	crypto.sha256
	net.cidr_contains net.cidr_intersects net.cidr_is_valid
	semver.compare semver.is_valid
	time.add_date time.clock time.date time.diff time.format time.parse_duration_ns time.parse_ns
	time.parse_rfc3339_ns time.weekday
	graph.reachable graph.reachable_paths walk
	internal.member_2 internal.member_3 internal.print internal.template_string print
`)

// capabilities are the language a guard is written in: Rego v1 and builtins,
// nothing that a later version of OPA adds.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	c := &ast.Capabilities{
		Features: []string{ast.FeatureRegoV1, ast.FeatureKeywordsInRefs, ast.FeatureTemplateStrings},
		AllowNet: []string{}, // none; nil would be any
	}
	for _, b := range all.Builtins {
		if slices.Contains(builtins, b.Name) && !b.Nondeterministic && !b.IsDeprecated() {
			c.Builtins = append(c.Builtins, b)
		}
	}
	return c
}
