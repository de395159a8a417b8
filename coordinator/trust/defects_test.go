package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/writmesh/writ/coordinator/key"
)

// A document is what the defects of one type are made from.
type document struct {
	vector
	text string
}

var documents = sync.OnceValue(func() map[string]document {
	out := map[string]document{}
	for _, v := range vectors() {
		switch v.file {
		case "root-1", "root-2", "manifest", "ended":
			text, _, _ := strings.Cut(string(v.msg), "\n\n")
			out[v.file] = document{v, text + "\n"}
		}
	}
	return out
})

// resign is the document's text, edited and signed again by those who may: what
// objects is not the signature.
func (d document) resign(text string) []byte { return signed(text, d.sign...) }

// replace edits one line, given by its key, and signs again.
func (d document) replace(key, value string) []byte {
	lines := strings.SplitAfter(d.text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, key+" ") {
			lines[i] = key + " " + value + "\n"
			return d.resign(strings.Join(lines, ""))
		}
	}
	panic("no line " + key)
}

// defects makes every defect of every document: what a reader must refuse.
func defects() map[string][]byte {
	out := map[string][]byte{}
	for name, d := range documents() {
		add := func(defect string, msg []byte) {
			file := name + "/" + defect
			if out[file] != nil || bytes.Equal(msg, d.msg) {
				panic("not a defect of its own: " + file)
			}
			out[file] = msg
		}
		lines := strings.SplitAfter(d.text, "\n")
		lines = lines[:len(lines)-1]
		edit := func(i int, with ...string) []byte {
			e := append([]string{}, lines[:i]...)
			return d.resign(strings.Join(append(append(e, with...), lines[i+1:]...), ""))
		}
		sigs := string(d.msg[len(d.text)+1:])

		// Refused before anything is read: the shape of the note.
		add("note_empty", nil)
		add("note_text_alone", []byte(d.text))
		add("note_no_blank_line", []byte(d.text+sigs))
		add("note_no_signature", []byte(d.text+"\n"))
		add("note_no_final_newline", bytes.TrimSuffix(d.msg, []byte("\n")))
		add("note_second_blank_line", []byte(d.text+"\n\n"+sigs))
		add("note_crlf", []byte(strings.ReplaceAll(string(d.msg), "\n", "\r\n")))
		add("note_tab", []byte(strings.Replace(string(d.msg), " ", "\t", 1)))
		add("note_nul", []byte(strings.Replace(string(d.msg), " ", "\x00", 1)))
		add("note_not_utf8", []byte(strings.Replace(string(d.msg), " ", "\xff", 1)))
		add("note_dash_for_em_dash", []byte(d.text+"\n"+strings.ReplaceAll(sigs, "—", "-")))
		add("note_signature_stray_bits", strayBits(d))
		add("note_101_signatures", []byte(d.text+"\n"+strings.Repeat(string(signed(d.text, x1)[len(d.text)+1:]), 101)))
		add("note_text_after_signatures", append(bytes.Clone(d.msg), "more\n"...))

		// Refused by the count of signatures.
		add("signed_by_stranger", signed(d.text, x1))
		if len(d.sign) > 1 {
			add("signed_by_one_key_thrice", []byte(d.text+"\n"+strings.Repeat(string(signed(d.text, d.sign[0])[len(d.text)+1:]), 3)))
		}
		add("signed_text_edited", []byte(strings.Replace(string(d.msg), "2026", "2027", 1)))
		add("signature_s_not_reduced", highS(d))

		// Refused by the reading: correctly signed, and not a text of its type.
		add("type_missing", edit(0))
		add("type_other", edit(0, "writ/other/v1\n"))
		add("type_next_version", edit(0, strings.Replace(lines[0], "v1", "v2", 1)))
		add("type_upper_case", edit(0, strings.ToUpper(lines[0])))
		add("type_with_space", edit(0, " "+lines[0]))
		add("line_missing", edit(2))
		add("line_twice", edit(2, lines[2], lines[2]))
		add("lines_swapped", d.resign(strings.Join(append([]string{lines[0], lines[2], lines[1]}, lines[3:]...), "")))
		add("line_unknown_at_end", d.resign(d.text+"extra 1\n"))
		add("line_unknown_inside", edit(2, lines[2], "extra 1\n"))
		add("line_blank", edit(2, lines[2], "\n"))
		add("value_empty", edit(1, strings.Fields(lines[1])[0]+" \n"))
		add("value_absent", edit(1, strings.Fields(lines[1])[0]+"\n"))
		add("value_space_before", edit(1, strings.Replace(lines[1], " ", "  ", 1)))
		add("value_space_after", edit(1, strings.TrimSuffix(lines[1], "\n")+" \n"))
		add("value_no_break_space", edit(1, strings.Replace(lines[1], " ", " \u00a0", 1)))
		add("value_zero_width_space", edit(1, strings.TrimSuffix(lines[1], "\n")+"\u200b\n"))
		add("value_bidi_override", edit(1, strings.TrimSuffix(lines[1], "\n")+"\u202e\n"))
		add("key_upper_case", edit(1, strings.ToUpper(lines[1][:1])+lines[1][1:]))
		add("epoch_zero", d.replace("epoch", "0"))
		add("epoch_leading_zero", d.replace("epoch", "01"))
		add("epoch_plus", d.replace("epoch", "+1"))
		add("epoch_negative", d.replace("epoch", "-1"))
		add("epoch_hexadecimal", d.replace("epoch", "0x1"))
		add("epoch_not_ascii", d.replace("epoch", "١"))
		add("epoch_2_to_62_and_one", d.replace("epoch", "4611686018427387905"))
		add("epoch_2_to_63", d.replace("epoch", "9223372036854775808"))
		add("epoch_2_to_64_and_one", d.replace("epoch", "18446744073709551617"))
		add("epoch_none", d.replace("epoch", "none"))
		for what, v := range map[string]string{
			"none": "none", "offset": "2026-11-22T12:00:00+00:00", "lower_case_t": "2026-11-22t12:00:00Z", "lower_case_z": "2026-11-22T12:00:00z",
			"leap_second": "2026-11-22T12:59:60Z", "fraction": "2026-11-22T12:00:00.5Z", "zero_fraction": "2026-11-22T12:00:00.0Z", "comma_fraction": "2026-11-22T12:00:00,0Z",
			"space": "2026-11-22 12:00:00Z", "date_alone": "2026-11-22", "hour_24": "2026-11-22T24:00:00Z", "30_february": "2026-02-30T12:00:00Z",
			"1969": "1969-12-31T23:59:59Z", "five_digit_year": "10000-01-01T00:00:00Z", "no_seconds": "2026-11-22T12:00Z", "one_digit_hour": "2026-11-22T1:00:00Z",
		} {
			add("issued_"+what, d.replace("issued", v))
		}
		if name != "root-1" {
			add("network_none", d.replace("network", "none"))
			add("network_zero", d.replace("network", key.NetworkID{}.String()))
			add("network_upper_case", d.replace("network", strings.ToUpper(firstRoot().Network.String())))
			add("network_other", d.replace("network", key.NetworkID{1}.String()))
		}
	}

	add := func(file string, msg []byte) {
		if out[file] != nil {
			panic("two of " + file)
		}
		out[file] = msg
	}

	d := documents()["root-1"]
	for _, name := range []string{"root-1", "root-2"} {
		d := documents()[name]
		add(name+"/prev_zero", d.replace("prev", key.Hash{}.String()))
		add(name+"/version_zero", d.replace("version", "0"))
		for _, role := range []string{"root", "policy", "admission"} {
			add(name+"/"+role+"_threshold_zero", d.replace(role+"-threshold", "0"))
			add(name+"/"+role+"_threshold_above_keys", d.replace(role+"-threshold", "4"))
			add(name+"/"+role+"_threshold_2_to_32_and_two", d.replace(role+"-threshold", "4294967298"))
		}
		k := strings.Index(d.text, "policy-key ")
		first := d.text[k : k+strings.Index(d.text[k:], "\n")+1]
		second := d.text[k+len(first):]
		second = second[:strings.Index(second, "\n")+1]
		add(name+"/policy_key_none", d.resign(strings.ReplaceAll(strings.Replace(strings.Replace(d.text, first, "", 1), second, "", 1), "policy-threshold 2", "policy-threshold 1")))
		add(name+"/policy_key_twice", d.resign(strings.Replace(d.text, first, first+first, 1)))
		add(name+"/policy_keys_not_sorted", d.resign(strings.Replace(d.text, first+second, second+first, 1)))
		add(name+"/policy_key_under_two_names", d.resign(strings.Replace(d.text, second, "policy-key "+named("policy-2", 11).Public().String()+"\n", 1)))
		add(name+"/policy_key_hash_upper_case", d.resign(strings.Replace(d.text, p1.Public().String(), upperHash(p1.Public().String()), 1)))
		add(name+"/policy_key_hash_wrong", d.resign(strings.Replace(d.text, "policy-key policy-1+", "policy-key policy-9+", 1)))
		add(name+"/policy_key_not_ed25519", d.resign(strings.Replace(d.text, p1.Public().String(), "policy-1+2e2ec1a0+AqEp", 1)))
		add(name+"/policy_key_small_order", d.resign(strings.Replace(d.text, p1.Public().String(), smallOrderKey("policy-1"), 1)))
		add(name+"/policy_keys_33", d.resign(strings.Replace(d.text, first+second, manyKeys("policy-key", 33), 1)))
		add(name+"/policy_key_padded", d.resign(strings.Replace(d.text, p1.Public().String(), p1.Public().String()+"=", 1)))
		add(name+"/seal_key_bad", d.replace("seal-key", "sealpub:x"))
		add(name+"/signer_empty", d.replace("signer", ""))
	}
	add("root-1/network_zero", d.replace("network", key.NetworkID{}.String()))
	add("root-1/network_own", d.replace("network", firstRoot().Network.String()))
	add("root-1/version_two", documents()["root-2"].msg)
	add("root-1/signed_by_one", signed(d.text, r1))
	add("root-1/signed_by_policy_keys", signed(d.text, p1, p2))
	add("root-1/another_first_root", d.replace("epoch", "7"))
	add("root-1/prev_some", d.replace("prev", key.HashOf(nil).String()))

	d = documents()["root-2"]
	add("root-2/signed_only_by_new", signed(d.text, r2, r4))
	add("root-2/signed_only_by_old", signed(d.text, r1, r2))
	add("root-2/signed_by_policy_keys", signed(d.text, p1, p2))
	add("root-2/version_same", documents()["root-1"].msg)
	add("root-2/version_one_with_prev", d.replace("version", "1"))
	add("root-2/version_plus_two", d.replace("version", "3"))
	add("root-2/prev_none", d.replace("prev", "none"))
	add("root-2/prev_other", d.replace("prev", key.HashOf(nil).String()))

	d = documents()["manifest"]
	add("manifest/signed_by_one_policy_key", signed(d.text, p1))
	add("manifest/signed_by_one_root_key", signed(d.text, r1))
	add("manifest/signed_by_one_policy_and_one_root_key", signed(d.text, p1, r1))
	add("manifest/signed_by_admission_keys", signed(d.text, a1, a2))
	add("manifest/signed_by_one_key_under_two_names", signed(d.text, p1, named("policy-2", 11)))
	add("manifest/line_last_missing", d.resign(d.text[:strings.Index(d.text, "changes ")]))
	add("manifest/epoch_next", d.replace("epoch", "2"))
	add("manifest/seq_below_issued", d.replace("seq", fmt.Sprint(noon.Unix()-1)))
	add("manifest/seq_leading_zeros", d.replace("seq", "007"))
	add("manifest/seq_negative", d.replace("seq", "-1"))
	add("manifest/seq_2_to_63", d.replace("seq", "9223372036854775808"))
	add("manifest/commit_none", d.replace("commit", "none"))
	add("manifest/commit_upper_case", d.replace("commit", "git:"+strings.Repeat("ABCDEF0123", 4)))
	add("manifest/commit_39_digits", d.replace("commit", "git:"+strings.Repeat("a", 39)))
	add("manifest/commit_41_digits", d.replace("commit", "git:"+strings.Repeat("a", 41)))
	add("manifest/commit_not_git", d.replace("commit", "hg:"+strings.Repeat("a", 40)))
	add("manifest/commit_without_scheme", d.replace("commit", strings.Repeat("a", 40)))
	add("manifest/base_empty_scheme", d.replace("base", "git:"))
	add("manifest/tree_none", d.replace("tree", "none"))
	add("manifest/tree_upper_case", d.replace("tree", "sha256:"+strings.Repeat("AB", 32)))
	add("manifest/tree_sha512", d.replace("tree", "sha512:"+strings.Repeat("ab", 32)))
	add("manifest/prev_zero", d.replace("prev", key.Hash{}.String()))
	add("manifest/changes_zero", d.replace("changes", key.Hash{}.String()))
	add("manifest/inventory_zero", d.replace("inventory", key.Hash{}.String()))
	add("manifest/leaves_negative", d.replace("leaves", "-1"))
	add("manifest/ended_list", documents()["ended"].msg)
	add("manifest/ended_list_signed_by_policy_keys", signed(documents()["ended"].text, p1, p2))
	add("manifest/root_document", documents()["root-1"].msg)

	d = documents()["ended"]
	node := func(i byte) string { return "node " + node(i).String() + " " }
	add("ended/signed_by_policy_keys", signed(d.text, p1, p2))
	add("ended/signed_by_one_root_key", signed(d.text, r1))
	add("ended/epoch_next", d.replace("epoch", "2"))
	add("ended/number_negative", d.replace("number", "-1"))
	add("ended/node_without_reason", d.resign(d.text[:strings.Index(d.text, "node ")]+strings.TrimSuffix(node(1), " ")+"\n"))
	add("ended/node_reason_of_two_words", d.resign(d.text+node(0xff)+"two words\n"))
	add("ended/node_twice", d.resign(d.text+node(0xff)+"revoked\n"))
	add("ended/node_twice_two_reasons", d.resign(d.text+node(0xff)+"pin\n"))
	add("ended/nodes_not_sorted", d.resign(d.text+node(2)+"pin\n"))
	add("ended/node_is_an_identity_key", d.resign(d.text+"node idpub:pg2vmlup4zkpsqdywejorkmlu6ib7bj242k35v7a4oiqxlieszsa pin\n"))
	add("ended/manifest", documents()["manifest"].msg)
	add("ended/manifest_signed_by_admission_keys", signed(documents()["manifest"].text, a1))
	return out
}

// strayBits sets the bits that the last character of a signature's base64 has to
// spare: the same signature, other bytes.
func strayBits(d document) []byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	msg := bytes.Clone(d.msg)
	last := bytes.LastIndexByte(msg, '=') - 1
	msg[last] = alphabet[strings.IndexByte(alphabet, msg[last])|1]
	return msg
}

// highS adds the group's order to S of the last signature.
func highS(d document) []byte {
	at := bytes.LastIndexByte(d.msg, ' ') + 1
	sig := must(base64.StdEncoding.DecodeString(strings.TrimSpace(string(d.msg[at:]))))
	order := must(hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")) // RFC 8032 section 5.1, little endian
	carry := 0
	for i := range 32 {
		sum := int(sig[4+32+i]) + int(order[i]) + carry
		sig[4+32+i], carry = byte(sum), sum>>8
	}
	return append(bytes.Clone(d.msg[:at]), base64.StdEncoding.EncodeToString(sig)+"\n"...)
}

func upperHash(vkey string) string {
	f := strings.Split(vkey, "+")
	f[1] = strings.ToUpper(f[1])
	return strings.Join(f, "+")
}

// smallOrderKey is a verifier key of the neutral point, with a right hash.
func smallOrderKey(name string) string {
	public := append([]byte{1, 1}, make([]byte, 31)...)
	sum := key.HashOf(append([]byte(name+"\n"), public...))
	return fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(public))
}

func manyKeys(line string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s %s\n", line, named(fmt.Sprintf("k%02d", i), byte(100+i)).Public())
	}
	return b.String()
}

func opener(dir string) func([]byte) (string, error) {
	return documents()[dir].open
}

// TestDefects reads each file of testdata/defects: a first line with the error,
// then the note that must be refused with it.
func TestDefects(t *testing.T) {
	const root = "testdata/defects"
	made := defects()
	if *update {
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		for file, msg := range made {
			_, err := opener(filepath.Dir(file))(msg)
			golden(t, filepath.Join(root, file+".txt"), fmt.Sprintf("%v\n%s", err, msg))
		}
	}
	seen := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		want, msg, _ := strings.Cut(string(b), "\n")
		rel := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(path), root+"/"), ".txt")
		switch text, err := opener(filepath.Dir(rel))([]byte(msg)); {
		case err == nil:
			t.Errorf("%s: accepted:\n%s", rel, text)
		case err.Error() != want:
			t.Errorf("%s: got error\n%v\nwant\n%s", rel, err, want)
		case text != "":
			t.Errorf("%s: refused, and yet a text is returned", rel)
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
