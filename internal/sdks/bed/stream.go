package bed

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Start starts a server, of HTTP/2 over TLS if h2, until the test ends.
func Start(t *testing.T, h2 bool, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if h2 {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server
}

// Wires runs a test over HTTP/1.1 and HTTP/2.
func Wires(t *testing.T, test func(t *testing.T, h2 bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { test(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, true) })
}

// Lockstep writes the parts of an answer, each once its reader has sent on got that it has the one
// before: if anybody holds an answer back until there is more of it, the reader gets but a part.
// got must be buffered.
func Lockstep(w http.ResponseWriter, got <-chan struct{}, parts ...string) {
	if w.Header().Get("Content-Type") == "" {
		// net/http would say that it is text, which may be endless.
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	flush := http.NewResponseController(w).Flush
	for i, part := range parts {
		if _, err := io.WriteString(w, part); err != nil || flush() != nil {
			panic(http.ErrAbortHandler)
		}
		if i == len(parts)-1 {
			return
		}
		select {
		case <-got:
		case <-time.After(5 * time.Second):
			panic(http.ErrAbortHandler)
		}
	}
}

// Pieces reads body to its end, and tells Lockstep of each of its pieces.
func Pieces(t *testing.T, body io.Reader, got chan<- struct{}) (pieces []string) {
	buffer := make([]byte, 512)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			pieces = append(pieces, string(buffer[:n]))
			got <- struct{}{}
		}
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			return pieces
		}
	}
}
