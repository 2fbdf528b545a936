package defendertest

import (
	"encoding/json"
	"reflect"
	"strings"
)

// decode fills a struct from a JSON object, and respects the case of the keys:
// the service documents that body parameters are case-sensitive, whereas
// encoding/json takes any case. A known key in another case is an incorrect body;
// unknown keys are ignored.
func decode(data []byte, into any) error {
	var keys map[string]json.RawMessage
	if json.Unmarshal(data, &keys) != nil || keys == nil {
		return errIncorrectBody()
	}
	// A key that is there in both cases is refused too: which of the two would
	// count is a question no client should ask.
	known := parameters(reflect.TypeOf(into).Elem())
	for key := range keys {
		if !known[key] && sounds(known, key) {
			return errIncorrectBody()
		}
	}
	if json.Unmarshal(data, into) != nil {
		return errIncorrectBody()
	}
	return nil
}

// read decodes a body and checks it.
func read[T interface{ check() error }](data []byte) (T, error) {
	var body T
	if err := decode(data, &body); err != nil {
		return body, err
	}
	return body, body.check()
}

// parameters are the keys that a struct's tags name.
func parameters(of reflect.Type) map[string]bool {
	names := make(map[string]bool)
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}

// sounds reports whether a key is a known one but for its case.
func sounds(known map[string]bool, key string) bool {
	for name := range known {
		if strings.EqualFold(name, key) {
			return true
		}
	}
	return false
}
