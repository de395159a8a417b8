package watch

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// maxWebhook bounds a webhook's body. A forge lists the commits of a push
	// in it, some kilobytes.
	maxWebhook = 1 << 20
	// webhookTime bounds how long a body may take.
	webhookTime = 10 * time.Second
)

// Webhook answers a forge's webhook. It means only "fetch now": nothing in the
// body is believed, nor even parsed. Accepted is a POST with at least one proof
// of the secret, where every proof there is holds and is there once:
//
//	X-Hub-Signature-256   sha256= and the HMAC-SHA256 of the body   GitHub, Gitea, Forgejo
//	X-Gitea-Signature     the HMAC-SHA256 of the body               Gitea
//	X-Forgejo-Signature   the HMAC-SHA256 of the body               Forgejo
//	X-Gitlab-Token        the secret itself                         GitLab
//
// HMACs are in hexadecimal. Comparisons take the same time wherever they differ.
// Without a secret every request is refused. Answers: 204, 401 for a wrong or
// missing proof, 405, 413 above a megabyte, 400 for a body that does not arrive.
func Webhook(secret []byte, wake func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "want POST", http.StatusMethodNotAllowed)
			return
		}
		if req.ContentLength > maxWebhook {
			http.Error(w, "body is too large", http.StatusRequestEntityTooLarge)
			return
		}
		// A writer without deadlines, as in tests, has a bounded body all the same.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(webhookTime))
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxWebhook))
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			http.Error(w, "body is too large", http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			http.Error(w, "body did not arrive", http.StatusBadRequest)
			return
		}
		if !proven(secret, req.Header, body) {
			http.Error(w, "not from the forge", http.StatusUnauthorized)
			return
		}
		wake()
		w.WriteHeader(http.StatusNoContent)
	})
}

// proven reports whether the headers prove knowledge of the secret.
func proven(secret []byte, h http.Header, body []byte) bool {
	if len(secret) == 0 {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	sum := mac.Sum(nil)
	proofs := 0
	for _, name := range []string{"X-Hub-Signature-256", "X-Gitea-Signature", "X-Forgejo-Signature", "X-Gitlab-Token"} {
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 {
			return false
		}
		v, ok := values[0], true
		switch name {
		case "X-Gitlab-Token":
			// Hashed first, so that not even the length shows.
			a, b := sha256.Sum256([]byte(v)), sha256.Sum256(secret)
			ok = subtle.ConstantTimeCompare(a[:], b[:]) == 1
		case "X-Hub-Signature-256":
			if v, ok = strings.CutPrefix(v, "sha256="); !ok {
				return false
			}
			ok = equalHex(v, sum)
		default:
			ok = equalHex(v, sum)
		}
		if !ok {
			return false
		}
		proofs++
	}
	return proofs > 0
}

func equalHex(s string, sum []byte) bool {
	b, err := hex.DecodeString(s)
	return err == nil && hmac.Equal(b, sum)
}
