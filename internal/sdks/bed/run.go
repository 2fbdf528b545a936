package bed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// Run runs every check of the package, over HTTP/1.1 and HTTP/2. The checks mostly wait: all run at
// once, since t.Parallel would let no more do so than there are processors.
func Run(t *testing.T, sdks ...SDK) {
	if err := documented(t.Name(), sdks); err != nil {
		t.Error(err)
	}
	var group sync.WaitGroup
	defer group.Wait()
	for _, s := range sdks {
		run(t, s, &group)
	}
}

func run(t *testing.T, s SDK, group *sync.WaitGroup) {
	for _, wire := range []string{"HTTP/1.1", "HTTP/2"} {
		h2 := wire == "HTTP/2"
		if h2 && s.HTTP1 {
			continue
		}
		for name, check := range map[string]func(*testing.T, *SDK, bool){
			"HappyCall":    happyCall,
			"RetryAsOften": retryAsOften,
			"TypedErrors":  typedErrors,
			"Cancel":       cancelled,
			"BothRetry":    bothRetry,
			"EarlyAnswer":  earlyAnswer,
			"NotTwice":     notTwice,
			"Traced":       traced,
		} {
			group.Go(func() {
				t.Run(fmt.Sprintf("%s/%s/%s", s.Name, wire, name), func(t *testing.T) { check(t, &s, h2) })
			})
		}
	}
}

// happyCall: a call that succeeds is on the wire, and in the SDK's hands, what it is without us.
func happyCall(t *testing.T, s *SDK, h2 bool) {
	bare := NewService(t, s, h2)
	theirs, err := s.Call(t, t.Context(), bare.Client().Transport, bare.URL, false)
	if err != nil || theirs != s.Answer {
		t.Fatalf("without us: %q, %v; want %q", theirs, err, s.Answer)
	}
	v := NewService(t, s, h2)
	got, err := s.Call(t, t.Context(), s.Transport(v.Client().Transport, nil), v.URL, false)
	if err != nil || got != s.Answer {
		t.Fatalf("%q, %v; want %q", got, err, s.Answer)
	}
	was, is := bare.Checked(t), v.Checked(t)
	if len(was) != 1 || len(is) != 1 {
		t.Fatalf("%d requests, and %d without us; want one", len(is), len(was))
	}
	plain := func(r Request) string {
		for _, name := range s.Varies {
			r.Header.Del(name)
		}
		lines := []string{r.Method + " " + r.URI}
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			lines = append(lines, fmt.Sprintf("%s: %q", name, r.Header[name]))
		}
		text := strings.Join(lines, "\n")
		for _, url := range []string{bare.URL, v.URL} { // a host in a field is another with each service
			text = strings.ReplaceAll(text, strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://"), "HOST")
		}
		return text
	}
	if a, b := plain(was[0]), plain(is[0]); a != b {
		t.Errorf("on the wire is\n%s\nand without us\n%s", b, a)
	}
}

// retryAsOften: without its own retries, the SDK makes as many attempts over a Transport as with
// them, or as its row says.
func retryAsOften(t *testing.T, s *SDK, h2 bool) {
	var group sync.WaitGroup
	defer group.Wait()
	const none = "0" // kiota waits for seconds where nothing is said
	for name, c := range map[string]struct {
		statuses []int
		after    string
		forever  bool
		want     int
	}{
		"503, 503, success":       {statuses: []int{503, 503}, after: none, want: 3},
		"500, success":            {statuses: []int{500}, after: none, want: 2},
		"503 for ever":            {statuses: []int{503}, after: none, forever: true, want: Attempts},
		"429 with a time":         {statuses: []int{429}, after: "1", want: 2},
		"503, 504, 429, success":  {statuses: []int{503, 504, 429}, after: none, want: 4},
		"503 with a time":         {statuses: []int{503}, after: "1", want: 2},
		"success at the first go": {want: 1},
	} {
		together(t, &group, name, func(t *testing.T) {
			var failures []Failure
			for _, status := range c.statuses {
				failures = append(failures, Failure{
					Status: status, Code: s.Busy, Message: "busy", After: c.after,
				})
			}
			mine := NewService(t, s, h2, failures...)
			mine.forever = c.forever
			answer, err := s.Call(t, t.Context(), s.Transport(mine.Client().Transport, NoBudget()), mine.URL, false)
			got := mine.Checked(t)
			if len(got) != c.want {
				t.Errorf("%d attempts, want %d", len(got), c.want)
			}
			switch {
			case (err != nil) != c.forever:
				t.Fatalf("%q, %v", answer, err)
			case err == nil && answer != s.Answer:
				t.Errorf("%q, want %q", answer, s.Answer)
			case err != nil:
				if status, code, _ := s.Typed(err); status != 503 || code != s.Busy {
					t.Errorf("the error is %d %q: %v", status, code, err)
				}
			}
			if c.after == "1" && len(got) == 2 {
				if waited := got[1].At.Sub(got[0].At); waited < time.Second {
					t.Errorf("waited %v, and was asked for a second", waited)
				}
			}

			want := c.want
			if s.Own != nil {
				want = s.Own(c.statuses, c.forever)
			}
			if want == 0 {
				return
			}
			made, theirErr := 0, error(nil)
			// What an SDK does by itself, with nothing of ours, may fail by a race of its own: kiota's retry
			// of a large body sends none now and then.
			for range 10 {
				theirs := NewService(t, s, h2, failures...)
				theirs.forever = c.forever
				_, theirErr = s.Call(t, t.Context(), theirs.Client().Transport, theirs.URL, true)
				made = len(theirs.Requests())
				if made == want && (want != c.want || (theirErr != nil) == c.forever) {
					break
				}
			}
			if made != want {
				t.Errorf("its own retries make %d attempts, and we were told %d", made, want)
			}
			if want != c.want {
				return
			}
			if (theirErr != nil) != c.forever {
				t.Errorf("with its own retries %v", short(theirErr))
			}
			status, code, _ := s.Typed(err)
			if theirStatus, theirCode, _ := s.Typed(theirErr); status != theirStatus || code != theirCode {
				t.Errorf("the error is %d %q, and with its own retries %d %q",
					status, code, theirStatus, theirCode)
			}
		})
	}
}

func together(t *testing.T, group *sync.WaitGroup, name string, test func(*testing.T)) {
	group.Go(func() { t.Run(name, test) })
}

// typedErrors: an error answer reaches the SDK's own error whole, also if it is longer than what is
// read ahead.
func typedErrors(t *testing.T, s *SDK, h2 bool) {
	long := strings.Repeat("long ", 16<<10)
	if s.MaxError > 0 {
		long = long[:s.MaxError-512]
	}
	for _, status := range []int{404, 503} {
		code := map[int]string{404: s.Missing, 503: s.Busy}[status]
		for _, message := range []string{"short", long} {
			fails := func(base func(*Service) http.RoundTripper) (*Service, error) {
				v := NewService(t, s, h2, Failure{Status: status, Code: code, Message: message})
				v.forever = true
				_, err := s.Call(t, t.Context(), base(v), v.URL, false)
				return v, err
			}
			_, bare := fails(func(v *Service) http.RoundTripper { return v.Client().Transport })
			v, err := fails(func(v *Service) http.RoundTripper {
				return s.Transport(v.Client().Transport, NoBudget())
			})
			gotStatus, gotCode, gotMessage := s.Typed(err)
			wantStatus, wantCode, wantMessage := s.Typed(bare)
			told := (wantCode == "" || strings.Contains(wantCode, code)) &&
				(wantMessage == "" || strings.Contains(wantMessage, strings.TrimSpace(message)))
			if wantStatus != status || !told {
				t.Errorf("without us the error is %T of %d %q: %v", bare, wantStatus, wantCode, short(bare))
			}
			if gotStatus != wantStatus || gotCode != wantCode || gotMessage != wantMessage {
				t.Errorf("got %T of %d %q with a message of %d bytes, and without us %d %q and %d",
					err, gotStatus, gotCode, len(gotMessage), wantStatus, wantCode, len(wantMessage))
			}
			want := 1
			if status == 503 {
				want = Attempts
			}
			if got := v.Checked(t); len(got) != want {
				t.Errorf("%d attempts after a %d, want %d", len(got), status, want)
			}
		}
	}
}

func short(err error) string {
	text := fmt.Sprint(err)
	return text[:min(len(text), 300)]
}

// cancelled: a caller who gives up while we wait for the service's time is let go at once, with
// context.Canceled.
func cancelled(t *testing.T, s *SDK, h2 bool) {
	const after = "20" // azidentity waits for up to 30 s
	v := NewService(t, s, h2, Failure{Status: 429, Code: s.Busy, Message: "busy", After: after})
	v.forever = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rt := s.Transport(v.Client().Transport, NoBudget())
	gave := make(chan time.Time, 1)
	rt.Trace = &steadyhttp.Trace{Waiting: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) {
		select {
		case gave <- time.Now():
			cancel()
		default: // the SDK calls again
		}
	}}
	_, err := s.Call(t, ctx, rt, v.URL, false)
	select {
	case at := <-gave:
		if took := time.Since(at); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	default:
		t.Error("we did not wait")
	}
	if s.HidesCancel {
		if bare := gaveUp(t, s, h2); errors.Is(bare, context.Canceled) {
			t.Errorf("the SDK does not hide it: %T: %v", bare, short(bare))
		}
		if !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("got %T: %v", err, short(err))
		}
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("got %T: %v", err, short(err))
	}
	if got := v.Requests(); len(got) != 1 {
		t.Errorf("%d attempts, want 1", len(got))
	}
}

// gaveUp is the error of a call without us whose caller gives up.
func gaveUp(t *testing.T, s *SDK, h2 bool) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow := *s
	serve := s.Serve
	slow.Serve = func(w http.ResponseWriter, r *http.Request, f *Failure) {
		if s.Counts == nil || s.Counts(r) {
			cancel()
			<-r.Context().Done()
		}
		serve(w, r, f)
	}
	v := NewService(t, &slow, h2)
	_, err := s.Call(t, ctx, v.Client().Transport, v.URL, false)
	return err
}

// bothRetry: with both retriers on, the attempts multiply, which is why docs/sdks.md says to switch
// the SDK's off, and what it costs not to.
func bothRetry(t *testing.T, s *SDK, h2 bool) {
	if s.Both == 0 {
		t.Skip("the SDK has no retries of its own")
	}
	var group sync.WaitGroup
	defer group.Wait()
	for _, c := range []struct {
		budget *steadyhttp.Budget
		want   int
	}{
		{NoBudget(), s.Both},
		// The default balance, without what time pays into it on a slow machine.
		{&steadyhttp.Budget{PerSuccess: -1, PerSecond: -1}, s.bounded()},
	} {
		group.Go(func() {
			v := NewService(t, s, h2, Failure{Status: 503, Code: s.Busy, Message: "busy", After: "0"})
			v.forever = true
			_, err := s.Call(t, t.Context(), s.Transport(v.Client().Transport, c.budget), v.URL, true)
			if status, code, _ := s.Typed(err); status != 503 || code != s.Busy {
				t.Errorf("the error is %d %q: %v", status, code, short(err))
			}
			got := v.Requests()
			if !s.OwnSpoils {
				v.Checked(t)
			}
			if len(got) != c.want {
				t.Errorf("%d requests, want %d", len(got), c.want)
			}
		})
	}
}

// bounded is Both with the default budget: it pays for ten retries of ours at first, and those of
// the SDK cost nothing.
func (s *SDK) bounded() int {
	calls := s.Both / Attempts
	return calls + min(calls*(Attempts-1), 10)
}

// documented checks that docs/sdks.md names the test in the rows of its SDKs' figures, and in no
// other.
func documented(test string, sdks []SDK) error {
	dir, err := os.Getwd() // that of the tested package
	if err != nil {
		return err
	}
	page, err := os.ReadFile("../../../docs/sdks.md")
	if err != nil {
		return err
	}
	name := fmt.Sprintf("`%s: %s`", filepath.Base(dir), test)
	var said, measured []string
	for line := range strings.Lines(string(page)) {
		var free, bounded int
		row, _ := fmt.Sscanf(line, "| %d / %d |", &free, &bounded)
		if row == 2 && strings.Contains(line, name) {
			said = append(said, fmt.Sprintf("%d / %d", free, bounded))
		}
	}
	for _, s := range sdks {
		if figures := fmt.Sprintf("%d / %d", s.Both, s.bounded()); s.Both > 0 && !slices.Contains(measured, figures) {
			measured = append(measured, figures)
		}
	}
	slices.Sort(said)
	slices.Sort(measured)
	if !slices.Equal(said, measured) {
		return fmt.Errorf("docs/sdks.md says that both retriers of %s cost %q, and it is %q", name, said, measured)
	}
	return nil
}

// notTwice: what may have been carried out is not sent again where nobody says that this does no
// harm, and what was refused is.
func notTwice(t *testing.T, s *SDK, h2 bool) {
	if !s.Unsafe {
		t.Skip("the call is idempotent")
	}
	for status, want := range map[int]int{500: 1, 503: 1, 429: 2} {
		v := NewService(t, s, h2, Failure{Status: status, Code: s.Busy, Message: "busy", After: "0"})
		rt := s.Transport(v.Client().Transport, NoBudget())
		rt.Idempotent, rt.Policy.Idempotent = nil, nil
		_, err := s.Call(t, t.Context(), rt, v.URL, false)
		if got := v.Checked(t); len(got) != want || (err == nil) != (want == 2) {
			t.Errorf("%d attempts after a %d, want %d: %v", len(got), status, want, short(err))
		}
	}
}

// earlyAnswer: a service that refuses before it has read the body gets it whole with the next
// attempt, though the one before may still be reading when the SDK's body is rewound.
func earlyAnswer(t *testing.T, s *SDK, h2 bool) {
	if s.Body == nil {
		t.Skip("the call has no body")
	}
	busy := Failure{Status: 503, Code: s.Busy, Message: "busy"}
	v := NewService(t, s, h2, busy, busy)
	v.early = true
	if _, err := s.Call(t, t.Context(), s.Transport(v.Client().Transport, NoBudget()), v.URL, false); err != nil {
		t.Fatal(short(err))
	}
	if got := v.Checked(t); len(got) != 3 {
		t.Errorf("%d attempts, want 3", len(got))
	}
}

// traced: a Trace in the call's context is told of it, whatever the SDK makes of the context and of
// the answer. AttemptOf is not: many SDKs hide the answer.
func traced(t *testing.T, s *SDK, h2 bool) {
	v := NewService(t, s, h2, Failure{Status: 503, Code: s.Busy, Message: "busy", After: "0"})
	done := make(chan steadyhttp.Attempt, 16)
	ctx := steadyhttp.WithTrace(t.Context(), &steadyhttp.Trace{
		Done: func(_ context.Context, a steadyhttp.Attempt) { done <- a },
	})
	if _, err := s.Call(t, ctx, s.Transport(v.Client().Transport, NoBudget()), v.URL, false); err != nil {
		t.Fatal(short(err))
	}
	late := time.After(5 * time.Second)
	for {
		select {
		case a := <-done:
			if a.N == 2 && a.Stop == steadyhttp.StopDone {
				return
			}
		case <-late:
			t.Fatal("it is not told of a call that succeeded with its second attempt")
		}
	}
}
