package quota

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// answeredNow is an attempt that went well.
func answeredNow() steadyhttp.Attempt {
	return steadyhttp.Attempt{Response: &http.Response{StatusCode: 200}, Sent: time.Now()}
}

// leaveAnswered ends a call that went out long ago.
func leaveAnswered(q *Quota, t *ticket) {
	resp := &http.Response{StatusCode: 200}
	t.Answered(resp)
	q.leave(t, steadyhttp.Attempt{Response: resp, Sent: time.Now()})
}

// A place that is kept for a replay goes with the answer: nobody is refused for it, and nobody waits a window for it.
func TestPlacesForReplays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Windows: []Window{{N: 100, Per: time.Hour}}}
		first, err := q.enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		first.Sent(time.Now())
		first.Sent(time.Now()) // net/http replays it
		leaveAnswered(q, first)
		time.Sleep(30 * time.Minute)
		var held []*ticket
		for range 49 {
			ticket, err := q.enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			ticket.Sent(time.Now())
			held = append(held, ticket)
		}
		// 2 + 49 places are taken, and 49 are kept free. The call behind them needs two, since it may be
		// sent twice itself. Each answer frees one, and it waits for no more.
		began := time.Now()
		time.AfterFunc(50*time.Millisecond, func() { leaveAnswered(q, held[0]) })
		time.AfterFunc(100*time.Millisecond, func() { leaveAnswered(q, held[1]) })
		if _, err := q.enter(t.Context(), steadyhttp.Attempt{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("waited %v for an answer after 100 ms", took)
		}
		// The others hang. They are taken to have arrived after 2 s, and keep nothing free from then on.
		began = time.Now()
		for range 40 {
			ticket, err := q.enter(t.Context(), steadyhttp.Attempt{})
			if err != nil {
				t.Fatal(err)
			}
			ticket.Sent(time.Now())
		}
		// Each round halves what is free: 24 calls, 12, 6.
		if took := time.Since(began); took > 4*usualTransit {
			t.Errorf("waited %v for calls that hang", took)
		}
		// After a window without a replay, none is expected any more.
		time.Sleep(2 * time.Hour)
		q.State()
		if q.replayed != never {
			t.Error("a replay is remembered for ever")
		}
	})
}

// A call that is sent very late, after its place was taken to have been used, is counted from its own arrival.
func TestVeryLateSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Quota{Windows: []Window{{N: 1, Per: time.Minute}}}
		late, err := q.enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Second) // in Prepare
		late.Sent(time.Now())
		sent := time.Now()
		if _, err := q.enter(t.Context(), steadyhttp.Attempt{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(sent); took < time.Minute+usualTransit {
			t.Errorf("the next call went %v after it, and may arrive within a minute of it", took)
		}
	})
}

// Reserve is a share of what others leave, too.
func TestReserveOfAShare(t *testing.T) {
	for _, c := range []struct {
		reserve float64
		share   float64
		normal  int
	}{{0.3, 27, 19}, {0.3, 100, 70}, {0.3, 1, 1}, {0.9, 5, 1}, {0, 27, 27}, {0.5, 3, 1}} {
		w := newWindows([]Window{{N: 100, Per: time.Minute}}, c.reserve)[0]
		w.shared, w.share = true, c.share
		w.next = never / 2
		w.used[normal] = c.normal - 1
		if !w.admits(normal, 0, 0, 1, 0) {
			t.Errorf("%+v: not %d", c, c.normal)
		}
		w.used[normal]++
		if w.admits(normal, 0, 0, 1, 0) {
			t.Errorf("%+v: more than %d", c, c.normal)
		}
	}
}
