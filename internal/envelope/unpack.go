package envelope

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// mostUnpacked bounds what a body is unpacked to: as much as is peeked of one that is not packed.
const mostUnpacked = 64 << 10

// Unpack returns what an error answer's body says, as far as its beginning tells: the body itself
// where it is not packed, a copy of at most 64 KiB where it is, and nil where that is in a way that
// the standard library can't undo. net/http unpacks only where it was net/http that asked for it.
func Unpack(body []byte, h http.Header) []byte {
	if len(body) == 0 || isObject(body) {
		return body // whatever the field says: somebody may have unpacked it, and left that
	}
	codings := h["Content-Encoding"]
	if len(codings) == 0 {
		return body
	}
	// The last coding was applied last (RFC 9110 section 8.4). More than two are nobody's.
	undone := 0
	for i := len(codings) - 1; i >= 0; i-- {
		for rest := codings[i]; rest != ""; {
			at := strings.LastIndexByte(rest, ',')
			coding := textproto.TrimString(rest[at+1:])
			rest = rest[:max(at, 0)]
			if coding == "" || strings.EqualFold(coding, "identity") {
				continue
			}
			if undone++; undone > 2 {
				return nil
			}
			if body = unpack(body, coding); len(body) == 0 {
				return nil
			}
		}
	}
	return body
}

func unpack(body []byte, coding string) []byte {
	switch {
	case strings.EqualFold(coding, "gzip"), strings.EqualFold(coding, "x-gzip"):
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		return beginning(z)
	case strings.EqualFold(coding, "deflate"):
		// It should be zlib's format, and many send it bare (RFC 9110 section 8.4.1.2).
		if z, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
			if b := beginning(z); len(b) > 0 {
				return b
			}
		}
		return beginning(flate.NewReader(bytes.NewReader(body)))
	}
	return nil
}

// beginning reads up to the bound or to where the data breaks off, which is no error: what came
// before is of use.
func beginning(r io.Reader) []byte {
	b, _ := io.ReadAll(io.LimitReader(r, mostUnpacked))
	return b
}

// isObject reports whether a body is JSON already. No packed one begins so, unless what is packed
// begins with a byte that is not ASCII.
func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimPrefix(body, []byte("\ufeff")), []byte("{"))
}
