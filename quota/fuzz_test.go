package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// FuzzRestore: whatever a snapshot says, it is refused with its field and the fix, or makes a Quota
// that counts no less than nothing, lets its next call go in the time of its longest window, and
// writes a snapshot that the next one takes, and counts alike.
func FuzzRestore(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"at":"2000-01-01T00:00:00Z"}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":1000000000,"n":2},{"age":-2000000000,"n":1}],"high":[{"age":5,"n":1}]}`,
		`{"normal":[{"age":4611686018427387904,"n":1}]}`,
		`{"normal":[{"age":9223372036854775807,"n":1}]}`,
		`{"at":"0001-01-01T00:00:01Z","normal":[{"age":9223372036854775807,"n":1}]}`,
		`{"at":"1999-12-31T23:59:59Z","normal":[{"age":9223372036854775807,"n":1},{"age":1,"n":3}]}`,
		`{"at":"9999-12-31T23:59:59Z","normal":[{"age":1,"n":3}]}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":2,"n":9223372036854775807},{"age":1,"n":9223372036854775807}]}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":2,"n":2305843009213693951}],"high":[{"age":1,"n":1}]}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":1,"n":-9223372036854775808}]}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":-9223372036854775808,"n":1}]}`,
		`{"at":"2000-01-01T00:00:00Z","normal":[{"age":1,"n":1},{"age":2,"n":1}]}`,
		`{"at":"1999-12-31T22:59:57Z","normal":[{"age":-2000000000,"n":3}]}`,
		`{"at":"2000-01-01T00:00:00+23:59","high":[{"age":0,"n":0},{"age":0,"n":5}]}`,
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, full bool) {
		var s Snapshot
		if json.Unmarshal(data, &s) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) { restored(t, s, full) })
	})
}

func restored(t *testing.T, s Snapshot, full bool) {
	windows := []Window{{N: 3, Per: time.Minute}, {N: 10, Per: time.Hour}}
	newQuota := func() *Quota {
		q := &Quota{Windows: windows, Reserve: 0.3}
		if full {
			q.Start = Spent
		}
		return q
	}
	q := newQuota()
	if err := q.Restore(s); err != nil {
		if !strings.HasPrefix(err.Error(), "quota: Snapshot.") || !strings.Contains(err.Error(), "Quota.Start") {
			t.Errorf("%v: names no field or no fix", err)
		}
		if err := q.Restore(Snapshot{}); err != nil {
			t.Errorf("after a refusal: %v", err)
		}
	}
	count := func(q *Quota) (counts string) {
		for _, w := range q.State().Windows {
			if w.Used < 0 || w.Free < 0 || w.Limit < 1 || w.Limit > w.N || w.Free > w.N {
				t.Errorf("%+v", w)
			}
			counts += fmt.Sprint(w.Used, " ")
		}
		for i := range q.windows {
			for c := range q.windows[i].used {
				if q.windows[i].used[c] < 0 {
					t.Errorf("window %d: %v used", i, q.windows[i].used)
				}
			}
		}
		return counts
	}
	before := count(q)
	written, err := json.Marshal(q.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	var again Snapshot
	if err := json.Unmarshal(written, &again); err != nil {
		t.Fatal(err)
	}
	next := &Quota{Windows: windows, Reserve: 0.3}
	if err := next.Restore(again); err != nil {
		t.Fatalf("refuses the snapshot of another: %v\n%s", err, written)
	}
	if got := count(next); got != before {
		t.Errorf("%s before, %s after\n%s", before, got, written)
	}
	const most = time.Hour + usualTransit + edge
	for _, p := range []Priority{Normal, High} {
		ctx, cancel := context.WithTimeout(WithPriority(t.Context(), p), 1)
		pass, err := q.Enter(ctx, steadyhttp.Attempt{})
		cancel()
		if d, ok := errors.AsType[*steadyhttp.Refusal](err); ok && (d.Wait <= 0 || d.Wait > most) {
			t.Errorf("priority %v has to wait for %v", p, d.Wait)
		} else if !ok && err != nil {
			t.Error(err)
		}
		if err == nil {
			pass.Leave(steadyhttp.Attempt{})
		}
	}
	// And it really goes.
	began := time.Now()
	pass, err := q.Enter(t.Context(), steadyhttp.Attempt{})
	if err != nil {
		t.Fatal(err)
	}
	pass.Leave(steadyhttp.Attempt{})
	if took := time.Since(began); took > most {
		t.Errorf("the next call went after %v", took)
	}
	time.Sleep(most)
	if got := count(q); got != "0 0 " {
		t.Errorf("%s are counted for ever", got)
	}
}

// FuzzNamedLimit: whatever a 429 says, it names a limit of at least 1 in a time that is positive, and
// the same one whatever stands around it; and a Quota that reads it keeps a limit between 1 and ours.
func FuzzNamedLimit(f *testing.F) {
	for _, s := range []string{
		"API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key. You can send requests again in 8 seconds.",
		"Maximum allowed 1 per 00:01:00.", "maximum allowed 45 per 01:00:00", "MAXIMUM ALLOWED 5 PER 0:0:60",
		"Maximum allowed 0 per 00:01:00", "Maximum allowed -3 per 00:01:00", "Maximum allowed +3 per 00:01:00", "Maximum allowed 3 per +0:01:00",
		"Maximum allowed 99999999999999999999 per 00:01:00", "Maximum allowed 3 per 65535:65535:65535", "Maximum allowed 3 per ::",
		"Maximum allowed 3 per 00:00:00", "Maximum allowed 3 per 00:01:00...", "Maximum allowed 3 per .00:01:00", "Maximum allowed 3 per",
		"Maximum allowed ٣ per 00:01:00", "Maximum allowed 0x3 per 00:01:00", "Maximum allowed 1_0 per 00:01:00",
		strings.Repeat("Ⱥ", 60) + " Maximum allowed 3 per 00:01:00", "İİİ maximum allowed 3 per 00:01:00", "Maximum allowed 3\u00a0per\u202800:01:00",
		"Maximum allowed 3 per 00:01:00 Maximum allowed 4 per 01:00:00", "\xff\xfeMaximum allowed 3 per 00:01:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, message string) {
		n, per, ok := namedLimit(message)
		if ok != (n > 0) || ok != (per > 0) || per%time.Second != 0 || per > 1<<16*(time.Hour+time.Minute+time.Second) {
			t.Fatalf("%q: %d per %v, %v", message, n, per, ok)
		}
		if ok {
			clock := fmt.Sprintf("%d:%d:%d", per/time.Hour, per%time.Hour/time.Minute, per%time.Minute/time.Second)
			if per < 1<<16*time.Hour {
				again := fmt.Sprintf("Ⱥ: Maximum allowed %d per %s. Try again later.", n, clock)
				if m, p, ok := namedLimit(again); !ok || m != n || p != per {
					t.Fatalf("%q names %d per %v, but %q names %d per %v", message, n, per, again, m, p)
				}
			}
			if !strings.Contains(message, fmt.Sprint(n)) {
				t.Fatalf("%q: %d is not in it", message, n)
			}
		}
		q := &Quota{Windows: []Window{{N: 100, Per: max(per, time.Second)}}, Reserve: 0.9}
		ticket, err := q.enter(t.Context(), steadyhttp.Attempt{})
		if err != nil {
			t.Fatal(err)
		}
		q.leave(ticket, steadyhttp.Attempt{Verdict: steadyhttp.Verdict{Class: steadyhttp.Throttled, Message: message}})
		if w := q.State().Windows[0]; w.Limit < 1 || w.Limit > 100 || ok && w.Limit > n {
			t.Fatalf("%q: %+v", message, w)
		}
	})
}
