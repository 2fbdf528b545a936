package ended_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/internal/ended"
)

// passed has a deadline that did not end it: a context of somebody's own, or a timer that is late.
type passed struct{ context.Context }

func (passed) Deadline() (time.Time, bool) { return time.Now(), true }

func TestADeadlineIsToldFromACancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		open, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		cancelled, stop := context.WithTimeout(t.Context(), time.Second)
		stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, tt := range []struct {
			name string
			ctx  context.Context
			want bool
		}{
			{"no deadline", t.Context(), false},
			{"deadline to come", open, false},
			{"deadline passed", late, true},
			{"cancelled, and its deadline has passed since", cancelled, false},
			{"deadline passed, not ended yet", passed{t.Context()}, true},
		} {
			if got := ended.Overdue(tt.ctx); got != tt.want {
				t.Errorf("%s: overdue %v, want %v", tt.name, got, tt.want)
			}
		}
	})
}

func TestCancelClosed(t *testing.T) {
	open, closed := make(chan struct{}), make(chan struct{})
	close(closed)
	for _, tt := range []struct {
		name   string
		cancel chan struct{}
		want   bool
	}{{"none", nil, false}, {"open", open, false}, {"closed", closed, true}} {
		//lint:ignore SA1019 http.Client sets it
		if got := ended.CancelClosed(&http.Request{Cancel: tt.cancel}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
