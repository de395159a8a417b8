package rego

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// A schema is a JSON schema, as far as it says what the compiler needs: which
// fields there are, and of what type. It is made from the Go types, so that it
// cannot lag behind them.
type schema struct {
	Type       string             `json:"type,omitempty"`       // empty means anything
	Properties map[string]*schema `json:"properties,omitempty"` // of an object; no others exist
	Items      *schema            `json:"items,omitempty"`      // of an array
}

// schemaOf describes what encoding/json makes of a type.
func schemaOf(t reflect.Type) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if p := reflect.PointerTo(t); p.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return &schema{Type: "string"}
	} else if p.Implements(reflect.TypeFor[json.Marshaler]()) {
		return &schema{}
	}
	switch t.Kind() {
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		return &schema{Type: "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return &schema{Type: "string"} // base64
		}
		return &schema{Type: "array", Items: schemaOf(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object"}
	case reflect.Struct:
		s := &schema{Type: "object", Properties: make(map[string]*schema)}
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "-" {
				continue
			}
			if name == "" {
				name = f.Name
			}
			s.Properties[name] = schemaOf(f.Type)
		}
		return s
	default:
		return &schema{}
	}
}

// fill puts an empty list wherever the schema has one and the value has none,
// so that a guard can count what is not there.
func (s *schema) fill(v any) any {
	switch s.Type {
	case "array":
		list, _ := v.([]any)
		if list == nil {
			return []any{}
		}
		for i := range list {
			list[i] = s.Items.fill(list[i])
		}
		return list
	case "object":
		object, ok := v.(map[string]any)
		if !ok {
			return v
		}
		for name, p := range s.Properties {
			have, ok := object[name]
			if ok || p.Type == "array" {
				object[name] = p.fill(have)
			}
		}
		return object
	default:
		return v
	}
}

// raw is the schema in the form OPA takes.
func (s *schema) raw() (raw any, err error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(b, &raw)
	return raw, err
}
