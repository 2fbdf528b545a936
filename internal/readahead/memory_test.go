package readahead

import (
	"bytes"
	"io"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/steadyhttp/steadyhttp/internal/bodies"
)

// goroutines is how many have been started so far.
func goroutines() uint64 {
	samples := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}

// What is in memory is read to the limit or to its end, as by Run, and without a goroutine.
func TestMemory(t *testing.T) {
	const content = "0123456789"
	for name, body := range map[string]func() io.Reader{
		"bytes.Reader":   func() io.Reader { return bytes.NewReader([]byte(content)) },
		"strings.Reader": func() io.Reader { return strings.NewReader(content) },
		"bytes.Buffer":   func() io.Reader { return bytes.NewBufferString(content) },
		"half read": func() io.Reader {
			r := strings.NewReader("read before" + content)
			r.Seek(int64(len("read before")), io.SeekStart)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			for limit := range len(content) + 4 {
				began := goroutines()
				var r *Reader
				for range 100 {
					r = Memory(nil, bodies.Memory(io.NopCloser(body())), limit)
				}
				if made := goroutines() - began; made >= 100 {
					t.Fatalf("%d goroutines for 100 bodies", made)
				}
				want := Start(nil, body(), limit, -1)
				want.Run(0)
				<-want.Done()
				if !r.Finished() || string(r.Bytes()) != string(want.Bytes()) || r.Err() != want.Err() {
					t.Errorf("limit %d: %q, %v; Run has %q, %v", limit, r.Bytes(), r.Err(), want.Bytes(), want.Err())
				}
				select {
				case <-r.Done():
				default:
					t.Error("it is not done")
				}
				if r.HandOver(io.NopCloser(nil)) {
					t.Error("it takes a body to close, and is done")
				}
			}
		})
	}
}
