package redisquota

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const longestKey = 128

// keyOf returns the prefix of a quota's keys, whose hash tag is the quota's Key: all of them are in one
// slot. What would end the tag, or a line of a log, is written as %XX; a long Key is cut, and told
// from others by its hash.
func keyOf(key string) string {
	const hexdigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(key) {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.:/@ ", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexdigits[c>>4])
			b.WriteByte(hexdigits[c&15])
		}
	}
	tag := b.String()
	if len(tag) > longestKey {
		sum := sha256.Sum256([]byte(key))
		tag = tag[:longestKey-33] + "#" + hex.EncodeToString(sum[:16])
	}
	return "steadyhttp:quota:{" + tag + "}"
}
