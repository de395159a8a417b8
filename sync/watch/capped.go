package watch

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxErrorBody bounds what is read of an answer that says no: enough of a reason
// for a log.
const maxErrorBody = 512

// A capped is an http.RoundTripper that talks to one host alone, redirects
// included, and takes no more from it than the limits.
type capped struct {
	origin *url.URL
	limits limits
	base   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *capped) RoundTrip(req *http.Request) (*http.Response, error) {
	if !c.allowed(req.URL) {
		return nil, fmt.Errorf("redirect from %s://%s to %s://%s is refused", c.origin.Scheme, c.origin.Host, req.URL.Scheme, req.URL.Host)
	}
	res, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode < 200 || res.StatusCode > 299:
		res.Body = &body{ReadCloser: res.Body, left: maxErrorBody, over: io.EOF}
	case strings.HasSuffix(req.URL.Path, "/info/refs"):
		res.Body = &body{res.Body, c.limits.refs, fmt.Errorf("%w: references have more than %d bytes", ErrLimit, c.limits.refs)}
	default:
		// The side band adds five bytes to each 64 KiB, or to less, and the
		// answer begins with a few lines.
		most := c.limits.pack + c.limits.pack/64 + 4096
		res.Body = &body{res.Body, most, fmt.Errorf("%w: answer has more than %d bytes", ErrLimit, most)}
	}
	return res, nil
}

// allowed reports whether a request may go to u: the remote's own scheme, host
// and port, or its https port in place of its http port.
func (c *capped) allowed(u *url.URL) bool {
	if strings.EqualFold(u.Hostname(), c.origin.Hostname()) {
		if u.Scheme == c.origin.Scheme {
			return port(u) == port(c.origin)
		}
		return c.origin.Scheme == "http" && u.Scheme == "https" && port(c.origin) == "80" && port(u) == "443"
	}
	return false
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}

// A body ends with the error over after so many bytes.
type body struct {
	io.ReadCloser
	left int64
	over error
}

func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.over
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
