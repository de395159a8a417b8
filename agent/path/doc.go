// Package path decides by which path packets go to each peer: by relay, or
// directly to one of the peer's endpoints.
package path
