package quota_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// Snapshot: its form is stable. A snapshot of the first version is read, and written as it was.
func TestFormOfASnapshot(t *testing.T) {
	const first = `{"at":"2000-01-01T00:00:00Z",` +
		`"normal":[{"age":61000000000,"n":7},{"age":2000000000,"n":1}],"high":[{"age":-2000000000,"n":3}]}`
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01
		var s quota.Snapshot
		if err := json.Unmarshal([]byte(first), &s); err != nil {
			t.Fatal(err)
		}
		if written, err := json.Marshal(s); string(written) != first || err != nil {
			t.Errorf("written as %s, %v", written, err)
		}
		q := &quota.Quota{Windows: minuteAndHour()}
		if err := q.Restore(s); err != nil {
			t.Fatal(err)
		}
		if w := q.State().Windows; w[0].Used != 4 || w[1].Used != 11 {
			t.Errorf("it says %+v, want 4 and 11", w)
		}
	})
}

// Snapshot: about 30 bytes a call as JSON, however far apart the calls are.
func TestSizeOfASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quota.Quota{Windows: []quota.Window{{N: 5000, Per: time.Hour}}}
		const calls = 1000
		for range calls {
			enter(t, q)(answered())
			time.Sleep(2567891234 * time.Nanosecond)
		}
		written, err := json.Marshal(q.Snapshot())
		if per := float64(len(written)) / calls; err != nil || per > 32 {
			t.Errorf("%.1f bytes a call, %v", per, err)
		}
	})
}

// State: it costs one allocation.
func TestStateAllocates(t *testing.T) {
	if quota.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	q := &quota.Quota{Windows: minuteAndHour()}
	if n := testing.AllocsPerRun(1000, func() { q.State() }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
