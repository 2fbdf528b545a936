package defender

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

type claimsKey struct{}

// Claims returns what the service has asked for when it refused the last token, as JSON, "" if it
// asked for nothing. A TokenFunc hands it on, so that the authority gives out another token than
// the one that was refused, which the source may still keep:
//
//	options := policy.TokenRequestOptions{Scopes: scopes, Claims: defender.Claims(ctx), EnableCAE: true}
//
// Services ask applications only that told the authority that they understand it (the client
// capability cp1, as EnableCAE does). What they ask for is remote data; it is meant for the
// authority alone.
func Claims(ctx context.Context) string {
	claims, _ := ctx.Value(claimsKey{}).(string)
	return claims
}

// A challenge is some hundred bytes long. Longer ones, and more fields, are nobody's.
const (
	maxChallenges = 16
	maxChallenge  = 16 << 10
)

// claimsOf returns the claims of a refusal's challenges (claims-challenge in
// MicrosoftDocs/entra-docs; RFC 9110 section 11.6.1):
//
//	WWW-Authenticate: Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOi…"
//
// The first Bearer challenge that has a JSON object, encoded in either alphabet of base64, is taken.
func claimsOf(h http.Header) string {
	fields := h["Www-Authenticate"]
	for _, field := range fields[:min(len(fields), maxChallenges)] {
		if len(field) > maxChallenge {
			continue
		}
		for c := (challenges{rest: field}); c.next(); {
			if equalFold(c.scheme, "bearer") && equalFold(c.name, "claims") {
				if claims := decoded(c.value); claims != "" {
					return claims
				}
			}
		}
	}
	return ""
}

// decoded returns the JSON object that is encoded in text, "" for anything else.
func decoded(text string) string {
	text = strings.TrimRight(text, "=")
	for _, encoding := range [...]*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		raw, err := encoding.DecodeString(text)
		if err == nil && len(raw) > 0 && raw[0] == '{' && json.Valid(raw) {
			return string(raw)
		}
	}
	return ""
}

// challenges walks through a field's parameters. A comma separates parameters and challenges alike:
// what is followed by a space and no equals sign is the next scheme.
type challenges struct {
	rest                string
	scheme, name, value string
}

// next finds the next parameter, and reports false where there is none, or nothing that can be
// read.
func (c *challenges) next() bool {
	for {
		c.rest = strings.TrimLeft(c.rest, " \t,")
		word := c.rest[:len(c.rest)-len(strings.TrimLeft(c.rest, tokenBytes))]
		behind := c.rest[len(word):]
		after := strings.TrimLeft(behind, " \t")
		switch {
		case word != "" && strings.HasPrefix(after, "="):
			c.name = word
			return c.take(strings.TrimLeft(after[1:], " \t"))
		case word != "" && (behind == "" || behind[0] == ',' || after != behind):
			c.scheme, c.rest = word, after
		case !c.skipToken68():
			return false
		}
	}
}

// skipToken68 skips what a scheme like Negotiate has in place of parameters (RFC 9110 section
// 11.2), and reports false where there is something else.
func (c *challenges) skipToken68() bool {
	const bytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/"
	rest := strings.TrimLeft(c.rest, bytes)
	if rest == c.rest {
		return false
	}
	rest = strings.TrimLeft(strings.TrimLeft(rest, "="), " \t")
	if rest != "" && rest[0] != ',' {
		return false
	}
	c.rest = rest
	return true
}

// tokenBytes are those of RFC 9110 section 5.6.2.
const tokenBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

// take reads a value: a quoted string, or up to the next comma or space, since claims are also sent
// without quotation marks.
func (c *challenges) take(text string) bool {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ", \t")
		if end < 0 {
			end = len(text)
		}
		c.value, c.rest = text[:end], text[end:]
		return true
	}
	var value strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			c.value, c.rest = value.String(), text[i+1:]
			return true
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		value.WriteByte(text[i])
	}
	return false // it breaks off
}
