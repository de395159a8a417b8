package commit

import (
	"bytes"
	"errors"
	"strings"
)

// signatureHeader is the header that holds a commit's signature.
const signatureHeader = "gpgsig "

// Signature returns the signature in the header gpgsig and the bytes it covers:
// raw without exactly the lines of that header. A commit that Parse refuses has
// neither. A commit without a signature has payload raw and an empty signature.
func Signature(raw []byte) (payload []byte, signature string, err error) {
	if _, err := Parse(raw); err != nil {
		return nil, "", err
	}
	var sig strings.Builder
	payload = make([]byte, 0, len(raw))
	inside := false
	for rest := raw; ; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		switch {
		case len(line) <= 1: // the empty line: the message follows
			return append(payload, rest...), sig.String(), nil
		case bytes.HasPrefix(line, []byte(signatureHeader)):
			inside = true
			sig.Write(line[len(signatureHeader):])
		case inside && line[0] == ' ':
			sig.Write(line[1:])
		default:
			inside = false
			payload = append(payload, line...)
		}
		rest = rest[len(line):]
	}
}

// Sign returns raw with the signature as its last header, where Git puts it.
func Sign(raw []byte, signature string) ([]byte, error) {
	_, old, err := Signature(raw)
	if err != nil {
		return nil, err
	}
	if old != "" {
		return nil, errors.New("commit is signed already")
	}
	signature = strings.TrimSuffix(signature, "\n")
	if signature == "" {
		return nil, errors.New("empty signature")
	}
	head, message, _ := bytes.Cut(raw, []byte("\n\n"))
	out := append([]byte{}, head...)
	out = append(out, "\n"+signatureHeader+strings.ReplaceAll(signature, "\n", "\n ")+"\n\n"...)
	return append(out, message...), nil
}
