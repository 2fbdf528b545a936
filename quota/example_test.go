package quota_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// Two limits hold at once. A call that can't be sent before its deadline is refused at once, and says how long to put it off.
func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()

	gate := &quota.Quota{Windows: []quota.Window{{N: 3, Per: time.Minute}, {N: 1500, Per: time.Hour}}}
	client := &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{gate}}}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for n := 1; ; n++ {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		resp, err := client.Do(req)
		if e, ok := errors.AsType[*steadyhttp.Error](err); ok && errors.Is(err, quota.ErrDeadline) {
			fmt.Printf("call %d: try again in %v\n", n, e.Wait.Round(time.Minute))
			return
		}
		resp.Body.Close()
	}
	// Output: call 4: try again in 1m0s
}

// An urgent call passes those that wait, and uses what the reserve has kept for it.
func ExampleWithPriority() {
	gate := &quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}, Reserve: 0.1}
	nightly := context.Background()
	urgent := quota.WithPriority(nightly, quota.High)

	for range 90 {
		pass, err := gate.Enter(nightly, steadyhttp.Attempt{})
		if err != nil {
			fmt.Println(err)
			return
		}
		pass.Leave(steadyhttp.Attempt{Response: &http.Response{StatusCode: 200}})
	}
	soon, cancel := context.WithTimeout(nightly, time.Second)
	defer cancel()
	_, err := gate.Enter(soon, steadyhttp.Attempt{})
	fmt.Println("nightly:", errors.Is(err, quota.ErrDeadline))
	_, err = gate.Enter(urgent, steadyhttp.Attempt{})
	fmt.Println("urgent:", err)
	// Output:
	// nightly: true
	// urgent: <nil>
}

// atOnce is a RoundTripper that has at most so many calls under way as it has room, from before their
// sending to the end of their bodies. A Gate would do until the answer's headers only.
type atOnce struct {
	base http.RoundTripper
	room chan struct{}
}

func (t *atOnce) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case t.room <- struct{}{}:
	case <-req.Context().Done():
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, context.Cause(req.Context())
	}
	leave := sync.OnceFunc(func() { <-t.room })
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		leave()
		return nil, err
	}
	resp.Body = &leavingBody{resp.Body, leave}
	return resp, nil
}

// leavingBody gives the place back at the body's end, or when it is closed before.
type leavingBody struct {
	io.ReadCloser
	leave func()
}

func (b *leavingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.leave()
	}
	return n, err
}

func (b *leavingBody) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}

// A limit on calls at once, as the 25 live response sessions of a Defender tenant are, is no rate: a
// RoundTripper below the Transport keeps it, so that each attempt takes a place when it has passed the
// quota, and keeps it until its body has been read.
func Example_atOnce() {
	var now, most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		w.(http.Flusher).Flush() // the headers; the body takes longer
		time.Sleep(20 * time.Millisecond)
		io.WriteString(w, "done")
	}))
	defer server.Close()

	client := &http.Client{Transport: &steadyhttp.Transport{
		Base:  &atOnce{http.DefaultTransport, make(chan struct{}, 3)},
		Gates: []steadyhttp.Gate{&quota.Quota{Windows: []quota.Window{{N: 100, Per: time.Minute}}}},
	}}
	var answered atomic.Int64
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			resp, err := client.Get(server.URL)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); string(body) == "done" {
				answered.Add(1)
			}
		})
	}
	group.Wait()
	fmt.Println(answered.Load(), "answers,", most.Load() <= 3)
	// Output: 12 answers, true
}
