package filters

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Print writes the report as one JSON object, an entry to a line: nodes by name,
// entries in the order in which rules give them.
func (r *Report) Print(w io.Writer) error {
	var b bytes.Buffer
	line := func(format string, v any) error {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("write filters: %w", err)
		}
		fmt.Fprintf(&b, format, text)
		return nil
	}
	b.WriteString("{\"nodes\": {")
	for i, name := range slices.Sorted(maps.Keys(r.Nodes)) {
		n := r.Nodes[name]
		if i > 0 {
			b.WriteByte(',')
		}
		if err := line("\n  %s: {\n    \"filter\": [", name); err != nil {
			return err
		}
		for i, e := range n.Filter {
			if err := line(comma(i)+"\n      %s", e); err != nil {
				return err
			}
		}
		if err := line("],\n    \"peers\": %s", n.Peers); err != nil {
			return err
		}
		if len(n.Routes) > 0 {
			if err := line(",\n    \"routes\": %s", n.Routes); err != nil {
				return err
			}
		}
		if len(n.Capabilities) > 0 {
			b.WriteString(",\n    \"capabilities\": [")
			for i, c := range n.Capabilities {
				if err := line(comma(i)+"\n      %s", c); err != nil {
					return err
				}
			}
			b.WriteByte(']')
		}
		b.WriteString("\n  }")
	}
	b.WriteString("\n}}\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write filters: %w", err)
	}
	return nil
}

func comma(i int) string {
	if i > 0 {
		return ","
	}
	return ""
}
