package watch

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const secret = "It's a Secret to Everybody"

func mac(key, body string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil))
}

func post(h http.Handler, body io.Reader, headers ...string) int {
	req := httptest.NewRequest("POST", "/webhook", body)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestWebhook(t *testing.T) {
	const body = "Hello, World!"
	// GitHub's documentation gives this signature for this secret and body.
	const vector = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	if got := mac(secret, body); got != vector {
		t.Fatalf("got %s, want GitHub's vector %s", got, vector)
	}
	bad := strings.Replace(vector, "7", "8", 1)
	const hub, gitea, forgejo, gitlab = "X-Hub-Signature-256", "X-Gitea-Signature", "X-Forgejo-Signature", "X-Gitlab-Token"
	for name, tc := range map[string]struct {
		headers []string
		want    int
	}{
		"github":           {[]string{hub, "sha256=" + vector}, 204},
		"github_upper":     {[]string{hub, "sha256=" + strings.ToUpper(vector)}, 204},
		"gitea":            {[]string{gitea, vector}, 204},
		"gitea_both":       {[]string{gitea, vector, hub, "sha256=" + vector}, 204},
		"forgejo":          {[]string{forgejo, vector, gitea, vector, hub, "sha256=" + vector}, 204},
		"gitlab":           {[]string{gitlab, secret}, 204},
		"none":             {nil, 401},
		"github_bad":       {[]string{hub, "sha256=" + bad}, 401},
		"github_bare":      {[]string{hub, vector}, 401},
		"github_short":     {[]string{hub, "sha256=" + vector[:32]}, 401},
		"github_empty":     {[]string{hub, ""}, 401},
		"github_not_hex":   {[]string{hub, "sha256=" + vector[:63] + "g"}, 401},
		"github_twice":     {[]string{hub, "sha256=" + vector, hub, "sha256=" + vector}, 401},
		"github_sha1_only": {[]string{"X-Hub-Signature", "sha1=" + vector[:40]}, 401},
		"gitea_bad":        {[]string{gitea, bad}, 401},
		"gitea_prefix":     {[]string{gitea, "sha256=" + vector}, 401},
		"one_good_one_bad": {[]string{hub, "sha256=" + vector, gitea, bad}, 401},
		"gitlab_bad":       {[]string{gitlab, secret + "x"}, 401},
		"gitlab_prefix":    {[]string{gitlab, secret[:5]}, 401},
		"gitlab_empty":     {[]string{gitlab, ""}, 401},
		"other_secret":     {[]string{gitea, mac("x", body)}, 401},
		"other_body":       {[]string{gitea, mac(secret, body+"x")}, 401},
	} {
		woken := 0
		h := Webhook([]byte(secret), func() { woken++ })
		got := post(h, strings.NewReader(body), tc.headers...)
		if got != tc.want || (woken == 1) != (tc.want == 204) || woken > 1 {
			t.Errorf("%s: got %d and %d wakes, want %d", name, got, woken, tc.want)
		}
		if got := post(Webhook(nil, func() { t.Errorf("%s: woken without a secret", name) }), strings.NewReader(body), tc.headers...); got != 401 {
			t.Errorf("%s, no secret: got %d, want 401", name, got)
		}
	}
	never := Webhook([]byte(secret), func() { t.Error("woken") })
	if got := post(never, brokenBody{}, gitlab, secret); got != 400 {
		t.Errorf("broken body: got %d, want 400", got)
	}
	huge := make([]byte, maxWebhook+1)
	if got := post(never, bytes.NewReader(huge), gitlab, secret); got != 413 {
		t.Errorf("body above the limit: got %d, want 413", got)
	}
	if got := post(never, io.MultiReader(bytes.NewReader(huge)), gitlab, secret); got != 413 {
		t.Errorf("body above the limit, of no length: got %d, want 413", got)
	}
	ok := Webhook([]byte(secret), func() {})
	if got := post(ok, bytes.NewReader(huge[1:]), gitea, mac(secret, string(huge[1:]))); got != 204 {
		t.Errorf("body at the limit: got %d, want 204", got)
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(method, "/webhook", strings.NewReader(body))
		req.Header.Set(gitlab, secret)
		never.ServeHTTP(w, req)
		if w.Code != 405 || w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: got %d, Allow %q; want 405, POST", method, w.Code, w.Header().Get("Allow"))
		}
	}
	// Over a connection, where deadlines can be set.
	s := httptest.NewServer(ok)
	defer s.Close()
	req, err := http.NewRequest("POST", s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(hub, "sha256="+vector)
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 204 {
		t.Errorf("over a connection: got %d, want 204", res.StatusCode)
	}
}

func FuzzWebhook(f *testing.F) {
	f.Add("{}", "sha256="+mac(secret, "{}"), "", "", "")
	f.Add("{}", "", mac(secret, "{}"), "", "")
	f.Add("{}", "", "", mac(secret, "{}"), "")
	f.Add("", "", "", "", secret)
	f.Add("{\"commits\":[null]}", "sha256=", "00", "\x00", "secret")
	f.Fuzz(func(t *testing.T, body, hub, gitea, forgejo, gitlab string) {
		woken := 0
		var headers []string
		proofs := 0
		all := true
		sum := mac(secret, body)
		for _, h := range []struct {
			name, value string
			good        bool
		}{
			{"X-Hub-Signature-256", hub, strings.HasPrefix(hub, "sha256=") && strings.EqualFold(hub[len("sha256="):], sum)},
			{"X-Gitea-Signature", gitea, strings.EqualFold(gitea, sum)},
			{"X-Forgejo-Signature", forgejo, strings.EqualFold(forgejo, sum)},
			{"X-Gitlab-Token", gitlab, gitlab == secret},
		} {
			if h.value == "" {
				continue
			}
			headers = append(headers, h.name, h.value)
			proofs++
			all = all && h.good
		}
		code := post(Webhook([]byte(secret), func() { woken++ }), strings.NewReader(body), headers...)
		if want := proofs > 0 && all && len(body) <= maxWebhook; (code == 204) != want || (woken == 1) != want {
			t.Errorf("got %d and %d wakes, want it accepted: %v", code, woken, want)
		}
	})
}
