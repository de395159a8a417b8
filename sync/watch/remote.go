package watch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/server"
)

// maxCredentials bounds the credentials file.
const maxCredentials = 4 << 10

// A remote is where a repository is fetched from.
type remote struct {
	name        string // for messages
	endpoint    *transport.Endpoint
	transport   transport.Transport
	credentials string // file; "" if none
	limits      limits
}

// parseRemote checks a remote's address. Which remotes there are is the package
// comment's to say.
func parseRemote(address, credentials string, roots *x509.CertPool, lim limits) (*remote, error) {
	if address == "" || address[0] == '-' {
		return nil, fmt.Errorf("remote %.60q is empty or begins with a dash", address)
	}
	if strings.IndexFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0 {
		return nil, errors.New("remote has a space or control character")
	}
	scheme, _, hasScheme := strings.Cut(address, "://")
	switch {
	case !hasScheme && isSCP(address) || scheme == "ssh" || scheme == "git+ssh" || scheme == "ssh+git":
		return nil, errors.New("remotes by ssh are not supported: there is no pinned host key to check yet; use https with a credentials file")
	case !hasScheme:
		return parsePath(address, credentials, lim)
	case scheme == "file":
		u, err := url.Parse(address)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || !filepath.IsAbs(u.Path) {
			return nil, fmt.Errorf("remote %.200q is not file:///path", address)
		}
		return parsePath(u.Path, credentials, lim)
	case scheme == "http" || scheme == "https":
		return parseHTTP(address, credentials, roots, lim)
	}
	return nil, fmt.Errorf("remote has the scheme %.20q: want a path, file, http or https", scheme)
}

// isSCP reports whether an address is of the form host:path, which Git takes for
// ssh: a colon before any slash.
func isSCP(address string) bool {
	host, _, ok := strings.Cut(address, ":")
	return ok && !strings.Contains(host, "/")
}

func parsePath(path, credentials string, lim limits) (*remote, error) {
	if credentials != "" {
		return nil, errors.New("credentials are for http remotes; this one is a path")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return &remote{
		name:      abs,
		endpoint:  &transport.Endpoint{Protocol: "file", Path: abs},
		transport: server.NewServer(loader{}),
		limits:    lim,
	}, nil
}

// A loader serves a repository on disk from this process.
type loader struct{}

func (loader) Load(ep *transport.Endpoint) (storer.Storer, error) {
	r, err := git.PlainOpenWithOptions(ep.Path, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if err != nil {
		return nil, err
	}
	return r.Storer, nil
}

func parseHTTP(address, credentials string, roots *x509.CertPool, lim limits) (*remote, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("remote is not a URL") // the cause would repeat it, credentials and all
	}
	switch {
	case u.User != nil:
		return nil, errors.New("remote holds credentials: put them in a file, where no process list or log shows them")
	case u.Hostname() == "":
		return nil, fmt.Errorf("remote %.200q names no host", address)
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("remote %.200q has a query or fragment", address)
	case credentials != "" && u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("credentials would go over plain http: use https")
	}
	ep, err := transport.NewEndpoint(u.String())
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	client := &http.Client{Transport: &capped{
		origin: u,
		limits: lim,
		base: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  30 * time.Second,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns:           2,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // packs and their limits are of the bytes sent
		},
	}}
	return &remote{
		name:        u.String(),
		endpoint:    ep,
		transport:   githttp.NewClient(client),
		credentials: credentials,
		limits:      lim,
	}, nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// auth reads the credentials file: one line, user:password or a token alone.
// Forges that take a token take it as the password of any user.
func (r *remote) auth() (transport.AuthMethod, error) {
	if r.credentials == "" {
		return nil, nil
	}
	f, err := os.Open(r.credentials)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("credentials %s: mode is %s; want a file that its owner alone may read", r.credentials, info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if len(data) > maxCredentials || line == "" || strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		return nil, fmt.Errorf("credentials %s: want one line, user:password or a token", r.credentials)
	}
	user, password, ok := strings.Cut(line, ":")
	if !ok {
		user, password = "writ", line
	}
	return &githttp.BasicAuth{Username: user, Password: password}, nil
}

// A session is one conversation with a remote: its references, then one pack.
type session struct {
	up     transport.UploadPackSession
	refs   *packp.AdvRefs
	limits limits
}

func (r *remote) session(ctx context.Context) (s session, err error) {
	defer recovered(&err)
	auth, err := r.auth()
	if err != nil {
		return session{}, err
	}
	ep := *r.endpoint // a redirect within the host changes it
	up, err := r.transport.NewUploadPackSession(&ep, auth)
	if err != nil {
		return session{}, err
	}
	refs, err := up.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		refs, err = packp.NewAdvRefs(), nil
	}
	if err != nil {
		up.Close()
		return session{}, fmt.Errorf("list references: %w", err)
	}
	return session{up, refs, r.limits}, nil
}

func (s session) close() { s.up.Close() }

// head returns what the branch points at.
func (s session) head(_ context.Context, branch plumbing.ReferenceName) (string, error) {
	h, ok := s.refs.References[branch.String()]
	if !ok {
		return "", ErrNoBranch
	}
	if h.IsZero() {
		return "", errors.New("branch points at nothing")
	}
	return h.String(), nil
}

// pack asks for a commit and all it reaches but what is reached from have, and
// writes it into the store at dir.
func (s session) pack(ctx context.Context, dir, want string, have []string) (err error) {
	defer recovered(&err)
	req := packp.NewUploadPackRequest()
	for _, c := range []capability.Capability{capability.OFSDelta, capability.Sideband64k, capability.NoProgress} {
		if s.refs.Capabilities.Supports(c) {
			if err := req.Capabilities.Set(c); err != nil {
				return err
			}
		}
	}
	req.Wants = []plumbing.Hash{plumbing.NewHash(want)}
	for _, id := range have {
		req.Haves = append(req.Haves, plumbing.NewHash(id))
	}
	resp, err := s.up.UploadPack(ctx, req)
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) {
		return errors.New("ask for pack: the answer is empty")
	}
	if err != nil {
		return fmt.Errorf("ask for pack: %w", err)
	}
	defer resp.Close()
	var r io.Reader = resp
	if req.Capabilities.Supports(capability.Sideband64k) {
		r = sideband.NewDemuxer(sideband.Sideband64k, resp)
	}
	return storePack(ctx, dir, r, s.limits)
}
