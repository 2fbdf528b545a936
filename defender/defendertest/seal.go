package defendertest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// A seal marks what the server hands out and wants to know again: tokens, and the
// URLs of downloads. They carry all that is to be known about them, so that the
// server needs no memory for them, however many it hands out. The zero value is
// of no use.
type seal struct{ key []byte }

// newSeal makes one that no other server accepts.
func newSeal() seal {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return seal{key}
}

// mark returns the signature of a text, in an alphabet that URLs take.
func (s seal) mark(text string) string {
	sum := hmac.New(sha256.New, s.key)
	sum.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

// holds reports whether a signature is that of a text.
func (s seal) holds(text, signature string) bool {
	return hmac.Equal([]byte(s.mark(text)), []byte(signature))
}
