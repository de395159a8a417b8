package papers

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writmesh/writ/coordinator/key"
	"github.com/writmesh/writ/coordinator/trust"
)

// replace edits one line, given by its key, and signs again; an empty value
// takes the line away.
func (d document) replace(key, value string) []byte {
	lines := strings.SplitAfter(d.text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, key+" ") {
			lines[i] = ""
			if value != "" {
				lines[i] = key + " " + value + "\n"
			}
			return d.sign(strings.Join(lines, ""))
		}
	}
	panic("no line " + key)
}

// manyAttributes are lines of posture.
func manyAttributes(n int) (lines string) {
	for i := range n {
		lines += fmt.Sprintf("posture custom:z%02d x\n", i)
	}
	return lines
}

// after adds a line behind the last with this key, and signs again.
func (d document) after(key, line string) []byte {
	at := strings.LastIndex(d.text, "\n"+key+" ") + 1
	at += strings.IndexByte(d.text[at:], '\n') + 1
	return d.sign(d.text[:at] + line + "\n" + d.text[at:])
}

// defects makes every defect of every document: what a reader must refuse.
func defects() map[string][]byte {
	out := map[string][]byte{}
	add := func(file string, msg []byte) {
		if out[file] != nil {
			panic("two of " + file)
		}
		out[file] = msg
	}
	docs := documents()
	for name, d := range docs {
		lines := strings.SplitAfter(d.text, "\n")
		msg := d.msg()
		add(name+"/note_empty", nil)
		add(name+"/note_text_alone", []byte(d.text))
		add(name+"/note_crlf", []byte(strings.ReplaceAll(string(msg), "\n", "\r\n")))
		add(name+"/note_no_final_newline", bytes.TrimSuffix(msg, []byte("\n")))
		add(name+"/note_too_large", append(bytes.Clone(msg), bytes.Repeat([]byte("a"), 100)...)[:len(msg)+1])
		add(name+"/signed_by_another_node", must(trust.SignAs(d.text, alice)))
		add(name+"/signed_by_policy_key", must(trust.Sign(d.text, p1)))
		add(name+"/signed_text_edited", bytes.Replace(msg, []byte("2026"), []byte("2027"), 1))
		add(name+"/type_other", d.sign("writ/other/v1\n"+strings.Join(lines[1:], "")))
		add(name+"/type_next_version", d.sign(strings.Replace(d.text, "/v1", "/v2", 1)))
		add(name+"/line_missing", d.sign(strings.Join(append(append([]string{}, lines[:2]...), lines[3:]...), "")))
		add(name+"/line_twice", d.sign(strings.Join(append(append([]string{}, lines[:3]...), lines[2:]...), "")))
		add(name+"/lines_swapped", d.sign(strings.Join(append([]string{lines[0], lines[2], lines[1]}, lines[3:]...), "")))
		add(name+"/line_unknown_at_end", d.sign(d.text+"extra 1\n"))
		add(name+"/line_blank", d.sign(strings.Replace(d.text, "\n", "\n\n", 1)))
		add(name+"/network_other", d.replace("network", key.NetworkID{1}.String()))
		add(name+"/network_none", d.replace("network", "none"))
		add(name+"/issued_none", d.replace("issued", "none"))
		add(name+"/issued_offset", d.replace("issued", "2026-11-22T12:00:00+00:00"))
		add(name+"/issued_fraction", d.replace("issued", "2026-11-22T12:00:00.5Z"))
		for other, o := range docs {
			if kind, _, _ := strings.Cut(other, "-"); !strings.HasPrefix(name, kind) {
				add(name+"/is_"+strings.ReplaceAll(other, "-", "_"), d.sign(o.text))
			}
		}
		for _, k := range []string{"seq", "serial", "log", "epoch"} {
			if strings.Contains(d.text, "\n"+k+" ") {
				add(name+"/"+k+"_leading_zero", d.replace(k, "01"))
				add(name+"/"+k+"_negative", d.replace(k, "-1"))
				add(name+"/"+k+"_2_to_63", d.replace(k, "9223372036854775808"))
			}
		}
		if strings.Contains(d.text, "\nname ") {
			for what, v := range map[string]string{
				"upper_case": "Ledger-1", "dot": "ledger.1", "underscore": "ledger_1", "leading_dash": "-ledger", "trailing_dash": "ledger-",
				"space": "ledger 1", "64_bytes": strings.Repeat("a", 64), "not_ascii": "lédger", "star": "ledger-*", "look_alike": "lеdger", "slash": "a/b",
			} {
				add(name+"/name_"+what, d.replace("name", v))
			}
		}
		if strings.Contains(d.text, "\nnode ") {
			add(name+"/node_other", d.replace("node", alice.Public().NodeID().String()))
			add(name+"/node_is_a_key", d.replace("node", ledger.Public().String()))
		}
		if strings.Contains(d.text, "\nidentity ") {
			add(name+"/identity_small_order", d.replace("identity", "idpub:aeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
			add(name+"/identity_private", d.replace("identity", ledger.Secret()))
		}
	}

	for _, name := range []string{"admission-server", "admission-user"} {
		d := docs[name]
		id := map[string]key.IdentityPublic{"admission-server": ledger.Public(), "admission-user": alice.Public()}[name]
		add(name+"/signed_by_one_admission_key", must(trust.Sign(d.text, a1)))
		add(name+"/signed_by_one_key_thrice", []byte(d.text+"\n"+strings.Repeat(string(must(trust.Sign(d.text, a1))[len(d.text)+1:]), 3)))
		add(name+"/signed_by_one_key_under_two_names", must(trust.Sign(d.text, a1, named("admission-2", 21))))
		add(name+"/signed_by_root_key", must(trust.Sign(d.text, r1)))
		add(name+"/signed_by_the_node_itself", byLedger(d.text))
		add(name+"/log_zero", d.replace("log", "0"))
		add(name+"/serial_zero", d.replace("serial", "0"))
		add(name+"/epoch_zero", d.replace("epoch", "0"))
		add(name+"/prev_zero", d.replace("prev", key.Hash{}.String()))
		add(name+"/ipv4_is_ipv6", d.replace("ipv4", "fd00::1"))
		add(name+"/ipv4_mapped", d.replace("ipv4", "::ffff:100.64.0.3"))
		add(name+"/ipv4_leading_zero", d.replace("ipv4", "100.64.0.03"))
		add(name+"/ipv4_prefix", d.replace("ipv4", "100.64.0.3/32"))
		add(name+"/ipv4_none", d.replace("ipv4", "none"))
		add(name+"/ipv6_another_keys", d.replace("ipv6", Address6(network(), r1Identity()).String()))
		add(name+"/ipv6_another_networks", d.replace("ipv6", Address6(key.NetworkID{1}, ledger.Public()).String()))
		add(name+"/ipv6_zone", d.replace("ipv6", Address6(network(), ledger.Public()).String()+"%eth0"))
		b := Address6(network(), id).As16()
		add(name+"/ipv6_dotted", d.replace("ipv6", fmt.Sprintf("%x:%x:%x:%x:%x:%x:%d.%d.%d.%d", b[:2], b[2:4], b[4:6], b[6:8], b[8:10], b[10:12], b[12], b[13], b[14], b[15])))
		add(name+"/ipv6_upper_case", d.replace("ipv6", strings.ToUpper(strings.TrimPrefix(ipv6Line(d.text), "ipv6 "))))
		add(name+"/network_other_with_its_address", d.sign(strings.NewReplacer(
			network().String(), key.NetworkID{1}.String(), Address6(network(), id).String(), Address6(key.NetworkID{1}, id).String()).Replace(d.text)))
		add(name+"/basis_unknown", d.replace("basis", "login alice"))
		add(name+"/basis_without_name", d.replace("basis", "pin"))
		add(name+"/basis_empty_name", d.replace("basis", "enrolment  x"))
		add(name+"/basis_pin_of_no_label", d.replace("basis", "pin a/b"))
		add(name+"/expires_missing", d.replace("expires", ""))
		add(name+"/expires_never", d.replace("expires", "never"))
	}
	d := docs["admission-server"]
	add("admission-server/prev_some_in_first", d.replace("prev", key.HashOf(nil).String()))
	add("admission-server/user_and_tags", d.after("ipv6", "user alice@acme.example https://login.acme.example 00u-1"))
	add("admission-server/neither_user_nor_tags", d.sign(strings.Replace(d.text, "tag accounting\ntag backup\n", "", 1)))
	add("admission-server/tags_not_sorted", d.sign(strings.Replace(d.text, "tag accounting\ntag backup\n", "tag backup\ntag accounting\n", 1)))
	add("admission-server/tag_twice", d.after("tag", "tag backup"))
	add("admission-server/tag_with_prefix", d.replace("tag", "tag:accounting"))
	add("admission-server/tag_upper_case", d.replace("tag", "Accounting"))
	add("admission-server/tags_65", d.sign(strings.Replace(d.text, "tag accounting\ntag backup\n", manyTags(65), 1)))
	d = docs["admission-user"]
	add("admission-user/prev_none_after_first", d.replace("prev", "none"))
	add("admission-user/two_users", d.after("user", "user bob@acme.example https://login.acme.example 00u-2"))
	add("admission-user/user_without_subject", d.replace("user", "alice@acme.example https://login.acme.example"))
	add("admission-user/user_empty_issuer", d.replace("user", "alice@acme.example  00u-1"))
	add("admission-user/user_of_four_words", d.replace("user", "alice@acme.example https://login.acme.example 00u 1"))
	add("admission-user/user_upper_case", d.replace("user", "Alice@acme.example https://login.acme.example 00u-1"))
	add("admission-user/user_two_ats", d.replace("user", "alice@evil@acme.example https://login.acme.example 00u-1"))
	add("admission-user/user_not_ascii", d.replace("user", "аlice@acme.example https://login.acme.example 00u-1"))

	d = docs["record"]
	add("record/signed_by_admission_keys", byAdmissionKeys(d.text))
	add("record/node_alices_signed_by_alice", must(trust.SignAs(strings.Replace(d.text, ledger.Public().NodeID().String(), alice.Public().NodeID().String(), 1), alice)))
	add("record/wg_zero", d.replace("wg", key.WGPublic{}.String()))
	add("record/wg_private", d.replace("wg", "wgkey:"+strings.TrimPrefix(wgKey.String(), "wgpub:")))
	add("record/relays_five", d.sign(strings.Replace(d.text, "relay fra\nrelay ams\n", strings.Repeat("relay x\n", 5), 1)))
	add("record/relay_address", d.replace("relay", "relay.acme.example:443"))
	add("record/posture_unknown", d.replace("posture", "hostname x"))
	add("record/posture_empty", d.replace("posture", "os"))
	add("record/posture_twice", d.sign(strings.Replace(d.text, "posture os linux\n", "posture os linux\nposture os linux\n", 1)))
	add("record/posture_unsorted", d.sign(strings.Replace(d.text, "posture os linux\nposture osVersion 13\n", "posture osVersion 13\nposture os linux\n", 1)))
	add("record/posture_not_ascii", d.sign(strings.Replace(d.text, "posture os linux", "posture os lіnux", 1)))
	add("record/posture_seventeen", d.after("posture", strings.TrimSuffix(manyAttributes(14), "\n")))
	add("record/expires_at_issue", d.replace("expires", "2026-11-22T12:00:00Z"))
	add("record/expires_before_issue", d.replace("expires", "2026-11-22T11:59:59Z"))
	add("record/expires_after_48_hours", d.replace("expires", "2026-11-24T12:00:01Z"))
	add("record/expires_none", d.replace("expires", "none"))

	d = docs["ack"]
	add("ack/signed_by_admission_keys", byAdmissionKeys(d.text))
	add("ack/manifest_none", d.replace("manifest", "none"))
	add("ack/digest_missing", d.replace("digest", ""))

	d = docs["join"]
	add("join/identity_alices", d.replace("identity", alice.Public().String()))
	add("join/proof_empty", d.sign(strings.Replace(d.text, d.text[strings.Index(d.text, "proof "):], "proof \n", 1)))
	add("join/proof_none_missing", d.replace("proof", ""))
	add("join/proof_padded", d.replace("proof", "AAA="))
	add("join/proof_stray_bits", d.replace("proof", "AAB"))
	add("join/proof_not_base64url", d.replace("proof", "+/+/"))
	return out
}

func r1Identity() key.IdentityPublic { return r1.Public().Identity() }

func ipv6Line(text string) string {
	at := strings.Index(text, "ipv6 ")
	return text[at : at+strings.IndexByte(text[at:], '\n')]
}

func manyTags(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "tag t%02d\n", i)
	}
	return b.String()
}

// TestDefects reads each file of testdata/defects: a first line with the error,
// then the note that must be refused with it.
func TestDefects(t *testing.T) {
	const dir = "testdata/defects"
	made := defects()
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for file, msg := range made {
			_, err := documents()[filepath.Dir(file)].open(msg)
			golden(t, filepath.Join(dir, file+".txt"), fmt.Sprintf("%v\n%s", err, msg))
		}
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		want, msg, _ := strings.Cut(string(b), "\n")
		rel := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(path), dir+"/"), ".txt")
		switch text, err := documents()[filepath.Dir(rel)].open([]byte(msg)); {
		case err == nil:
			t.Errorf("%s: accepted:\n%s", rel, text)
		case err.Error() != want:
			t.Errorf("%s: got error\n%v\nwant\n%s", rel, err, want)
		}
		if !bytes.Equal(made[rel], []byte(msg)) {
			t.Errorf("%s: is not the note that the table makes", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(made) {
		t.Errorf("%d files, want %d", seen, len(made))
	}
}

// Every single-bit flip of a valid note is refused, and every cut.
func TestBitFlips(t *testing.T) {
	for name, d := range documents() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			msg := d.msg()
			for bit := range 8 * len(msg) {
				bad := bytes.Clone(msg)
				bad[bit/8] ^= 1 << (bit % 8)
				if _, err := d.open(bad); err == nil {
					t.Errorf("bit %d of byte %d (%q) flipped: accepted", bit%8, bit/8, msg[bit/8])
				}
			}
			for n := range msg {
				if _, err := d.open(msg[:n]); err == nil {
					t.Errorf("cut to %d bytes: accepted", n)
				}
			}
		})
	}
}

func TestSizes(t *testing.T) {
	for name, limit := range map[string]int{"admission-user": MaxAdmission, "record": MaxRecord, "ack": MaxAck, "join": MaxJoin} {
		open := documents()[name].open
		for _, n := range []int{limit, limit + 1} {
			_, err := open(bytes.Repeat([]byte("a"), n))
			want := fmt.Sprintf("note of %d bytes: at most %d", n, limit)
			if err == nil || strings.HasSuffix(err.Error(), want) != (n > limit) {
				t.Errorf("%s of %d bytes: got %v", name, n, err)
			}
		}
	}
}

// What two readers of this package agree on in time: a record lives 48 hours at
// most, and no less than a second.
func TestRecordLife(t *testing.T) {
	for life, ok := range map[time.Duration]bool{-time.Second: false, 0: false, time.Second: true, 24 * time.Hour: true, 48 * time.Hour: true, 48*time.Hour + time.Second: false, 1 << 62: false} {
		r := exampleRecord()
		r.Expires = r.Issued.Add(life)
		msg, _, err := SignRecord(r, ledger)
		if (err == nil) != ok {
			t.Errorf("sign a record of %s: %v", life, err)
		}
		if !ok {
			msg = byLedger(r.Text())
		}
		if _, err := OpenRecord(msg, network(), ledger.Public()); (err == nil) != ok {
			t.Errorf("open a record of %s: %v", life, err)
		}
	}
}
