package sandbox

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"time"
)

func TestFrameVectors(t *testing.T) {
	for _, v := range []struct {
		name string
		t    frameType
		body []byte
		hex  string
	}{
		{"ready", frameReady, nil, "0000000102"},
		{"refused", frameRefused, []byte("no"), "00000003036e6f"},
		{"call", frameCall, append(call{name: "load", budget: time.Second}.head(), "{}"...), "00000010" + "04" + "046c6f6164" + "000000003b9aca00" + "7b7d"},
		{"answer", frameAnswer, []byte{0}, "000000020500"},
	} {
		var b bytes.Buffer
		if err := writeFrame(&b, v.t, v.body); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b.Bytes()); got != v.hex {
			t.Errorf("%s: got %s, want %s", v.name, got, v.hex)
		}
		got, body, err := readFrame(&b, len(v.body))
		if err != nil || got != v.t || !bytes.Equal(body, v.body) {
			t.Errorf("%s: got type %d, %x, %v", v.name, got, body, err)
		}
	}
}

func TestFramesRejected(t *testing.T) {
	for _, v := range []struct {
		name, hex string
		want      error
	}{
		{"nothing", "", io.EOF},
		{"half a length", "0000", io.ErrUnexpectedEOF},
		{"length zero", "00000000", errFrame},
		{"length over the limit", "0000000a02", errFrame},
		{"length of 4 GiB", "ffffffff02", errFrame},
		{"body missing", "00000004", io.ErrUnexpectedEOF},
		{"body cut", "000000040200", io.ErrUnexpectedEOF},
	} {
		b, _ := hex.DecodeString(v.hex)
		if _, _, err := readFrame(bytes.NewReader(b), 8); !errors.Is(err, v.want) {
			t.Errorf("%s: got %v, want %v", v.name, err, v.want)
		}
	}
	for _, v := range []string{"", "01", "0161", "04" + "6c6f61" + "0000000000000001", "00" + "0000000000000000", "00" + "8000000000000000"} {
		b, _ := hex.DecodeString(v)
		if c, err := parseCall(b); !errors.Is(err, errFrame) {
			t.Errorf("call %s: got %v, %v", v, c, err)
		}
	}
	for _, v := range []string{``, `{}`, `{"memory":1}`, `{"memory":536870912,"cpu":20,"frame":1,"more":1}`, `{"memory":536870912,"cpu":20,"frame":1}{}`, `{"memory":-1,"cpu":20,"frame":1}`} {
		if s, err := parseSetup([]byte(v)); err == nil {
			t.Errorf("setup %s: got %v", v, s)
		}
	}
	if _, err := parseSetup([]byte(`{"memory":536870912,"cpu":20,"frame":1}`)); err != nil {
		t.Errorf("a good setup: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	for _, s := range []string{"0000000102", "00000010" + "04" + "046c6f6164" + "000000003b9aca00" + "7b7d", "ffffffff", "00000000", "000000020500"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		typ, body, err := readFrame(bytes.NewReader(in), 1<<10)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, typ, body); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(in, again.Bytes()) {
			t.Fatalf("%x read and written is %x", in, again.Bytes())
		}
		c, err := parseCall(body)
		if err == nil && !bytes.Equal(append(c.head(), c.request...), body) {
			t.Fatalf("call %x read and written is %x", body, append(c.head(), c.request...))
		}
	})
}
