package steadyhttp

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Policy says how often, how long and what to retry. The zero value is the default policy. A Policy
// is read-only once its Transport is in use.
type Policy struct {
	// MaxAttempts bounds the attempts of a call in all, the first included. 0: 4. 1 or negative:
	// never retry.
	MaxAttempts int

	// MaxThrottled is the number of retries after a 429 which come over and above MaxAttempts: such
	// a call was refused, not failed. 0: none. Negative: any number, for up to 6 hours unless
	// MaxElapsed says otherwise.
	MaxThrottled int

	// MaxElapsed bounds the whole call until its response headers, gates and waits included. 0:
	// only the context does. Negative: refused, since a time that has run out is no time without end.
	MaxElapsed time.Duration

	// MaxWait caps a back-off; a service that asks for more gets no retry, and its answer is
	// returned. It does not bound the wait at a gate. 0: 1 minute. Negative: refused.
	MaxWait time.Duration

	// AttemptTimeout bounds each attempt until its response headers. Unlike http.Client.Timeout it
	// leaves the waits between attempts and the reading of the body alone. 0 or negative: none.
	AttemptTimeout time.Duration

	// IdleTimeout bounds each Read of the returned body: a connection that died silently does not
	// hang the reader for ever. The body of a 101 is such a body too: a WebSocket on which the
	// server says nothing for so long is closed, however much is written to it. 0 or negative: none.
	IdleTimeout time.Duration

	// NewBackOff makes the back-off of one call, at its first retry: a backoff.BackOff has state
	// and must not be shared. Reset is called on it, as backoff.Retry does. backoff.Stop ends the
	// call. Do not hand out one that is wrapped in backoff.WithContext: the call has its own
	// context. nil: 500 ms doubling to 30 s, each ±50 % at random.
	NewBackOff func() backoff.BackOff

	// Idempotent reports whether doing req twice does no harm. It is asked before the request is
	// sent, since what it denies net/http must not replay either, and again after a failure whose
	// fate is unknown. What was refused (429) or was provably never sent is retried whatever it
	// says. It may read the body from req.GetBody. nil: Transport.Idempotent, or where that is nil
	// too GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2), PROPFIND, REPORT,
	// SEARCH and QUERY, and whatever has an Idempotency-Key or X-Idempotency-Key field, as net/http
	// has it.
	Idempotent func(req *http.Request) bool

	// IdempotencyKey gives each call that has no key and is not idempotent by method one of its
	// own, the same on all its attempts, and so makes it idempotent. A request that Idempotent
	// denies even so gets none. Set it only for services that know the field: to the others a retry
	// is a second order.
	IdempotencyKey bool

	// MaxBuffer is how many bytes of a request body without GetBody are kept, to be able to retry
	// it. They are recorded as they are sent, not read before; a longer body is sent once. 0: 256
	// KiB where the length is known, by ContentLength or since a bytes.Reader, bytes.Buffer or
	// strings.Reader in an io.NopCloser is sent. Negative: none.
	MaxBuffer int64

	// MaxRead is the size in bytes up to which the body of a 2xx to an idempotent request is read
	// before it is returned; if it breaks off, the request is retried as after a lost connection. A
	// longer one is returned as it streams, and so is one that takes longer than MaxElapsed, or the
	// answer to any other request; IdleTimeout bounds each Read. 0 or negative: never.
	MaxRead int64

	// Budget pays for retries; share one between Transports that call the same service. One that is
	// made in an edit of WithPolicy is new for every call: make it outside. nil: the Transport's
	// own, with the defaults. &Budget{Max: -1}: none.
	Budget *Budget
}

// Batch returns a policy for jobs that would rather wait than lose an item: it waits for the budget
// instead of giving up, makes up to 20 attempts, does not count retries after a 429 but goes on
// against them for up to 6 hours, and waits up to 75 minutes, which is longer than any hourly quota
// needs. Use one per Transport: its Budget is shared by the Transport's calls. A context or an
// http.Client with a deadline ends its patience: what would have to wait longer is refused at once.
func Batch() Policy {
	return Policy{
		MaxAttempts:  20,
		MaxThrottled: -1,
		MaxWait:      75 * time.Minute,
		// One probe a second goes out while everything fails; a job's send rate is bounded by its
		// workers anyway.
		Budget: &Budget{PerSecond: 1, Wait: true},
	}
}

// check refuses what can't be meant, naming the field and the fix.
func (p *Policy) check() error {
	if p.MaxWait < 0 {
		return fmt.Errorf("Policy.MaxWait is %v; use a positive duration, or 0 for %v (MaxAttempts: 1 never retries)", p.MaxWait, defaultMaxWait)
	}
	if p.MaxElapsed < 0 {
		return fmt.Errorf("Policy.MaxElapsed is %v; use a positive duration, or 0 for no bound but the context's", p.MaxElapsed)
	}
	if p.Budget != nil {
		return p.Budget.check()
	}
	return nil
}

const (
	defaultMaxAttempts = 4
	defaultMaxWait     = time.Minute
)

func (p *Policy) maxAttempts() int {
	if p.MaxAttempts == 0 {
		return defaultMaxAttempts
	}
	return max(1, p.MaxAttempts)
}

func (p *Policy) maxWait() time.Duration {
	if p.MaxWait == 0 {
		return defaultMaxWait
	}
	return p.MaxWait
}

// maxBuffer returns how many bytes are recorded of a body of that length; 0 or less: it is unknown.
func (p *Policy) maxBuffer(length int64) int64 {
	const usual = 256 << 10
	switch {
	case p.MaxBuffer > 0:
		return p.MaxBuffer
	case p.MaxBuffer == 0 && 0 < length && length <= usual:
		return length
	}
	return 0
}

func (p *Policy) idempotent(req *http.Request) bool {
	// A CONNECT or an upgrade turns the request's body into one side of a tunnel.
	if tunnel(req) {
		return false
	}
	if p.Idempotent != nil {
		return p.Idempotent(req)
	}
	return idempotent(req.Method) || hasKey(req)
}

// unsafe reports whether nobody may send req twice, net/http included. A handshake may be.
func (p *Policy) unsafe(req *http.Request) bool {
	if p.Idempotent != nil {
		return !p.Idempotent(req)
	}
	return !idempotent(req.Method) && !hasKey(req) && !tunnel(req)
}

func idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return safe(method)
}

// safe methods ask for nothing to be done (RFC 9110 section 9.2.1).
func safe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace,
		"PROPFIND", // RFC 4918 section 9.1
		"REPORT",   // RFC 3253 section 3.6
		"SEARCH",   // RFC 5323 section 2
		"QUERY":    // draft-ietf-httpbis-safe-method-w-body
		return true
	}
	return false
}

// hasKey tests for the fields as net/http does (Request.isReplayable): their presence counts, not
// their value.
func hasKey(req *http.Request) bool {
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// tunnel reports whether a request asks for a connection of its own, which it then writes to.
func tunnel(req *http.Request) bool {
	return req.Method == http.MethodConnect || len(req.Header["Upgrade"]) > 0
}

// maySpeakHTTP2 reports whether a request may go over HTTP/2, where net/http replays whatever it
// can also after RST_STREAM with PROTOCOL_ERROR (golang/go#47635), which does not say that nothing
// was done. It can't without GetBody; it then says in its error what it would have replayed after,
// and a request that provably was not processed is replayed here (see replay). A base other than
// net/http's own does not show whether it speaks HTTP/2 without TLS.
func maySpeakHTTP2(base http.RoundTripper, req *http.Request) bool {
	if strings.EqualFold(req.URL.Scheme, "https") {
		return true
	}
	native, ok := base.(*http.Transport)
	return ok && native.Protocols != nil && native.Protocols.UnencryptedHTTP2()
}

// situation is all that a decision depends on beside the policy and the verdict.
type situation struct {
	attempts     int  // made so far, without those that MaxThrottled pays for
	throttled    int  // retries so far after a 429
	unknown      bool // the failure is one that nothing is known of
	idempotent   bool // doing the request twice does no harm
	unsent       bool // it provably never left
	replayable   bool // its body can be sent again
	authorizable bool // Prepare can fetch new credentials, and has not been asked to yet
}

// permit says whether the call may go on at all: "" if it may.
func (p *Policy) permit(v Verdict, s situation) Stop {
	switch {
	case v.Class == Success:
		return StopDone
	case v.Class == Permanent, v.Class == Unauthorized && !s.authorizable:
		return StopPermanent
	case s.attempts >= p.maxAttempts() && !p.free(v, s):
		return StopAttempts
	case v.Class == Transient && s.unknown && s.attempts > 1:
		return StopAttempts
	case v.Class == Transient && !s.idempotent && !s.unsent:
		return StopNotIdempotent
	case !s.replayable:
		return StopBodyNotReplayable
	}
	return ""
}

// free reports whether the retry comes over and above MaxAttempts.
func (p *Policy) free(v Verdict, s situation) bool {
	if v.Class != Throttled || p.maxAttempts() == 1 {
		return false
	}
	return p.MaxThrottled < 0 || s.throttled < p.MaxThrottled
}

// uncounted is how many of so many retries after a 429 come over and above MaxAttempts.
func (p *Policy) uncounted(throttled int) int {
	if p.MaxThrottled < 0 {
		return throttled
	}
	return min(throttled, p.MaxThrottled)
}

// maxThrottling is how long a call that MaxThrottled gives any number of retries goes on against
// 429s.
const maxThrottling = 6 * time.Hour

// wait is how long to wait before a retry: at least, and with its jitter; what the server has asked
// for, and our own back-off.
type wait struct{ least, most, asked, own time.Duration }

// fits says whether a wait is worth beginning: "" if it is, and how long it is to be. Sleeping into
// a deadline would turn an answer that the caller could read into an error that tells him nothing,
// and a retry before the server's time is refused anyway. What must be waited has to fit; the
// jitter takes what is left, and decides nothing. remaining and untilDeadline are negative where
// there is no bound.
func (p *Policy) fits(w wait, remaining, untilDeadline time.Duration) (time.Duration, Stop) {
	most := w.most
	switch {
	case w.most == backoff.Stop:
		return 0, StopAttempts
	case w.asked > p.maxWait():
		return 0, StopWaitTooLong
	case remaining >= 0 && w.least >= remaining:
		return 0, StopElapsed
	case untilDeadline >= 0 && w.least >= untilDeadline:
		return 0, StopDeadline
	}
	for _, left := range [...]time.Duration{remaining, untilDeadline} {
		if left >= 0 && most >= left {
			most = w.least + (left-w.least)/2
		}
	}
	return most, ""
}

// pacing is what the times of a call's retries depend on.
type pacing struct {
	series      series
	throttled   int       // retries after a 429
	throttledAt time.Time // the first of them; zero: there was none
	unprepared  int       // retries after a Prepare that failed
}

// pace returns the larger of the back-off and the pushback. Only a failure, or a throttling that
// named no time, makes the back-off grow; new credentials need no wait.
func (p *pacing) pace(policy *Policy, v Verdict) wait {
	if v.Class == Unauthorized {
		return wait{}
	}
	if !named(v) {
		if p.series.next(policy.NewBackOff); p.series.interval == backoff.Stop {
			return wait{most: backoff.Stop}
		}
	}
	least, most := min(p.series.least(), policy.maxWait()), min(p.series.interval, policy.maxWait())
	if v.Class == Throttled {
		floor := throttlePace(p.throttled + 1)
		least, most = max(least, floor), max(most, floor)
	}
	return wait{max(least, v.RetryAfter), max(most, spread(v.RetryAfter)), v.RetryAfter, most}
}

// series is a call's back-off, and what it has said.
type series struct {
	own      backoff.BackOff // the policy's; nil: it has none, or none was needed yet
	standard int             // intervals that the default has given in place of it
	interval time.Duration   // the last
}

// next has the back-off say its next interval.
func (s *series) next(newBackOff func() backoff.BackOff) {
	if s.own == nil && newBackOff != nil {
		if s.own = newBackOff(); s.own != nil {
			if literal, ok := s.own.(*backoff.ExponentialBackOff); ok && literal.Clock == nil {
				literal.Clock = backoff.SystemClock // its Reset would panic
			}
			s.own.Reset() // what was set after the constructor counts from here
		}
	}
	if s.own != nil {
		s.interval = s.own.NextBackOff()
		return
	}
	s.standard++
	b := defaultBackOff(s.standard)
	s.interval = b.NextBackOff()
}

// least is the least that the back-off could have said last: that of a back-off of the policy's own
// is what it said.
func (s *series) least() time.Duration {
	if s.standard == 0 {
		return s.interval
	}
	return defaultBackOff(s.standard).InitialInterval / 2
}

// defaultBackOff returns what a nil NewBackOff stands for, before its n-th interval: 500 ms, 1 s,
// 2 s, 4 s, 8 s, 16 s, 30 s and so on, each ±50 %. It is a value, so that it costs no allocation.
func defaultBackOff(n int) backoff.ExponentialBackOff {
	const first, most = 500 * time.Millisecond, 30 * time.Second
	b := backoff.ExponentialBackOff{
		InitialInterval:     min(first<<min(n-1, 10), most),
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         most,
		MaxElapsedTime:      0, // its own bound of 15 minutes would end the wait for an hourly quota
		Stop:                backoff.Stop,
		Clock:               frozenClock{},
	}
	b.Reset()
	return b
}

// frozenClock spares the clock readings that only MaxElapsedTime, which is off, would need.
type frozenClock struct{}

func (frozenClock) Now() time.Time { return time.Time{} }

// throttlePace is the least wait before the n-th retry in a row after 429s: a service that goes on
// asking for a second is not asked every second.
func throttlePace(n int) time.Duration {
	const patient = 3
	if n <= patient {
		return 0
	}
	return min(time.Second<<min(n-patient, 6), time.Minute)
}

// spread adds a little to a time that the server named, so that all its clients do not come back at
// once. It never takes anything off: an early retry is another 429.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(min(d/10, time.Second)+1)
}

// named reports whether the verdict is a throttling that told its time.
func named(v Verdict) bool { return v.Class == Throttled && v.RetryAfter > 0 }
