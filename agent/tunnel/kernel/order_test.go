package kernel

import (
	"bytes"
	"errors"
	"testing"
)

func TestTrainsEndAtWhatIsAlone(t *testing.T) {
	one := flow{udp: true, payload: []byte("1")}.packet(true)
	empty := flow{udp: true}.packet(true)
	empty6 := flow{udp: true, v6: true}.packet(true)
	fragment := bytes.Clone(one)
	fragment[6] = 0x20
	last := bytes.Clone(one)
	last[7] = 3
	options := flow{udp: true, options: 4, payload: []byte("1")}.packet(true)
	lying := bytes.Clone(one)
	lying[3]++
	lying6 := flow{udp: true, v6: true, payload: []byte("1")}.packet(true)
	lying6[5]++
	for name, pkt := range map[string][]byte{
		"empty": empty, "empty over IPv6": empty6, "fragment": fragment, "last fragment": last,
		"options": options, "length": lying, "length over IPv6": lying6,
	} {
		if !alone(pkt) {
			t.Errorf("%s: joins a train", name)
		}
	}
	for name, pkt := range map[string][]byte{
		"nothing": {}, "junk": []byte("junk, longer than any header of IPv6 is....."), "datagram": one,
		"TCP without payload": flow{}.packet(true), "TCP over IPv6": flow{v6: true}.packet(true),
	} {
		if alone(pkt) {
			t.Errorf("%s: ends a train", name)
		}
	}

	var got []int
	failed := errors.New("second")
	err := trains([][]byte{empty, one, one, empty, empty6, one}, 0, func(bufs [][]byte) error {
		got = append(got, len(bufs))
		if len(got) == 2 {
			return failed
		}
		return nil
	})
	if want := []int{3, 1, 2}; len(got) != 3 || got[0] != 3 || got[1] != 1 || got[2] != 2 {
		t.Errorf("trains of %v, want %v", got, want)
	}
	if !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}
