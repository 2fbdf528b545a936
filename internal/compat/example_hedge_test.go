package compat

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// hedge sends a read a second time if its answer is slow, and takes the answer that comes first. It
// stands outside of the Transport, whose gates both pass, and shares its Budget: in an outage there
// is no second load.
type hedge struct {
	next   http.RoundTripper
	budget *steadyhttp.Budget // Policy.Budget of next
	after  time.Duration      // as long as the slowest 5 % take
}

// copyOf is what became of one of the two.
type copyOf struct {
	n    int
	resp *http.Response
	err  error
}

func (c copyOf) good() bool { return c.err == nil && c.resp.StatusCode < 500 }

func (h *hedge) RoundTrip(req *http.Request) (*http.Response, error) {
	read := req.Method == http.MethodGet || req.Method == http.MethodHead
	if !read || req.Body != nil || req.Header.Get("Upgrade") != "" {
		return h.next.RoundTrip(req)
	}
	var cancels [2]context.CancelFunc
	answers := make(chan copyOf, len(cancels))
	send := func(n int) {
		ctx, cancel := context.WithCancel(req.Context())
		cancels[n] = cancel
		go func() {
			resp, err := h.next.RoundTrip(req.Clone(ctx))
			answers <- copyOf{n, resp, err}
		}()
	}
	send(0)
	patience := time.NewTimer(h.after)
	defer patience.Stop()
	var spare *copyOf
	for underWay := 1; ; {
		select {
		case <-patience.C:
			if h.budget.Take(req) {
				send(1)
				underWay++
			}
		case c := <-answers:
			underWay--
			if !c.good() && underWay > 0 {
				spare = &c // the other may do better
				continue
			}
			if spare != nil {
				if c.err != nil && spare.err == nil {
					c, *spare = *spare, c // an answer says more than an error
				}
				drop(*spare, cancels[spare.n])
			} else if underWay > 0 {
				other := cancels[1-c.n]
				other()
				go func() { drop(<-answers, other) }()
			}
			if c.err != nil {
				cancels[c.n]()
				return nil, c.err
			}
			c.resp.Request = req
			c.resp.Body = &cancelOnClose{c.resp.Body, cancels[c.n]}
			return c.resp, nil
		}
	}
}

// drop ends the copy that is not taken.
func drop(c copyOf, cancel context.CancelFunc) {
	cancel()
	if c.resp != nil {
		c.resp.Body.Close()
	}
}

// cancelOnClose keeps the context of the answer that was taken for as long as its body is read.
type cancelOnClose struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelOnClose) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// A hedge: a read whose answer is slow is sent once more, if the Budget pays for it.
func Example_hedge() {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done() // the first one hangs
			return
		}
		io.WriteString(w, "answered")
	}))
	defer server.Close()

	budget := &steadyhttp.Budget{}
	client := &http.Client{Transport: &hedge{
		next:   &steadyhttp.Transport{Policy: steadyhttp.Policy{Budget: budget}},
		budget: budget, after: 20 * time.Millisecond,
	}}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s by request %d, %v\n", body, n.Load(), err)
	// Output: answered by request 2, <nil>
}
