package watch

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/server"

	"github.com/writmesh/writ/policy/source/commit"
)

// gitServer serves the repository at dir over HTTP, as a forge does.
func gitServer(tb testing.TB, dir string) http.Handler {
	session := func() transport.UploadPackSession {
		s, err := server.NewServer(loader{}).NewUploadPackSession(&transport.Endpoint{Path: dir}, nil)
		if err != nil {
			tb.Error(err)
		}
		return s
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /repo.git/info/refs", func(w http.ResponseWriter, r *http.Request) {
		refs, err := session().AdvertisedReferences()
		if err != nil {
			tb.Error(err)
			return
		}
		refs.Prefix = [][]byte{[]byte("# service=git-upload-pack"), pktline.Flush}
		refs.Encode(w)
	})
	mux.HandleFunc("POST /repo.git/git-upload-pack", func(w http.ResponseWriter, r *http.Request) {
		body := bufio.NewReader(r.Body)
		req := packp.NewUploadPackRequest()
		if err := req.UploadRequest.Decode(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for lines := pktline.NewScanner(body); lines.Scan(); {
			if have, ok := strings.CutPrefix(strings.TrimSpace(string(lines.Bytes())), "have "); ok {
				req.Haves = append(req.Haves, plumbing.NewHash(have))
			}
		}
		resp, err := session().UploadPack(r.Context(), req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp.Encode(w)
	})
	return mux
}

// A hostile server says that main is at a commit and answers with what it likes.
type hostile struct {
	head string
	refs func(w http.ResponseWriter, r *http.Request) // instead of the references
	pack func(w http.ResponseWriter, r *http.Request) // after the NAK
}

func (h hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := pktline.NewEncoder(w)
	if strings.HasSuffix(r.URL.Path, "/info/refs") {
		if h.refs != nil {
			h.refs(w, r)
			return
		}
		e.EncodeString("# service=git-upload-pack\n")
		e.Flush()
		e.EncodeString(h.head + " refs/heads/main\x00ofs-delta\n")
		e.Flush()
		return
	}
	io.Copy(io.Discard, r.Body)
	e.EncodeString("NAK\n")
	h.pack(w, r)
}

// endless writes b until the reader has had enough.
func endless(w io.Writer, b []byte) {
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

// A packed is an object of a pack, with a size it claims if that is not its own.
type packed struct {
	kind  plumbing.ObjectType
	data  []byte
	claim int64
	base  []byte // for a delta: the hash, or the offset as it is encoded
}

// makePack writes a pack by the format's description, gitformat-pack(5).
func makePack(objects ...packed) []byte { return makePackOf(uint32(len(objects)), objects...) }

func makePackOf(count uint32, objects ...packed) []byte {
	var b bytes.Buffer
	b.WriteString("PACK")
	binary.Write(&b, binary.BigEndian, uint32(2))
	binary.Write(&b, binary.BigEndian, count)
	for _, o := range objects {
		size := o.claim
		if size == 0 {
			size = int64(len(o.data))
		}
		c := byte(o.kind)<<4 | byte(size&15)
		for size >>= 4; size > 0; size >>= 7 {
			b.WriteByte(c | 0x80)
			c = byte(size & 0x7f)
		}
		b.WriteByte(c)
		b.Write(o.base)
		z := zlib.NewWriter(&b)
		z.Write(o.data)
		z.Close()
	}
	sum := sha1.Sum(b.Bytes())
	return append(b.Bytes(), sum[:]...)
}

func rawID(tb testing.TB, kind string, data []byte) (id string, b []byte) {
	tb.Helper()
	id, err := commit.ID(kind, data)
	if err != nil {
		tb.Fatal(err)
	}
	b, _ = hex.DecodeString(id)
	return id, b
}

// small is a pack of one commit with one file.
func small(tb testing.TB) (head string, objects []packed) {
	blob := []byte("package network\n")
	_, blobID := rawID(tb, "blob", blob)
	tree := append([]byte("100644 network.cue\x00"), blobID...)
	treeID, _ := rawID(tb, "tree", tree)
	c := []byte(fmt.Sprintf("tree %s\nauthor A <a@b> 1767225600 +0000\ncommitter A <a@b> 1767225600 +0000\n\nm\n", treeID))
	head, _ = rawID(tb, "commit", c)
	return head, []packed{{kind: plumbing.CommitObject, data: c}, {kind: plumbing.TreeObject, data: tree}, {kind: plumbing.BlobObject, data: blob}}
}
