package defender

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/neterr"
)

// TokenFunc fetches a token, and says when it expires; zero if that is not known. It is called for
// one token at a time, which all calls then share. It should not cache tokens itself: it would
// return one again that the service has refused.
//
// ctx is not that of a call, since the token is for all of them. It ends after a minute: the fetch
// has then failed, and the next may begin although the function has not returned. It has what the
// service wants of the token, after a 401 that says so: see Claims.
//
// # Errors
//
// Nothing has been sent yet when a fetch fails, so the call is retried as after a failed
// connection: with back-off, and within the Policy's attempts and its budget. All calls that wait
// share the failure. The next fetch begins 1 s after it, then 2 s and so on up to 30 s, until one
// succeeds, so that an authority that is down is asked by one call at a time.
//
// An error is final, and ends the calls that waited for it, if in its chain there is a
// *backoff.PermanentError, one with a method NonRetriable(), one whose HTTPStatusCode() int is a
// 4xx, steadyhttp.Check's *steadyhttp.Error with such a status, or *oauth2.RetrieveError of
// golang.org/x/oauth2, whose Response has one; 408 and 429 are not final.
// Errors of net, timeouts, 5xx and 429 are retried for as long as the call's deadline, MaxElapsed and
// MaxThrottled let it, of which the preset sets none; one of which nothing is known is retried once.
// So return the authority's own errors, wrapped with %w or not at all, and
//
//	return "", time.Time{}, backoff.Permanent(err)
//
// where a retry can't help. Azure's azidentity calls all its failures NonRetriable, even those
// without an answer. To let a job outlast an authority that is down, tell them apart:
//
//	var failed *azidentity.AuthenticationFailedError
//	if errors.As(err, &failed) && failed.RawResponse == nil {
//		err = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New(err.Error())}
//	}
type TokenFunc func(ctx context.Context) (token string, expires time.Time, err error)

// TokenFrom makes a TokenFunc of a function that fetches a token, for instance of one that calls Token of x/oauth2's
// clientcredentials.Config, and of a function that reads its tokens. read is not called if get failed: such functions
// return a nil token then. get should not be the Token method of an x/oauth2 TokenSource: most of them cache.
func TokenFrom[T any](get func() (T, error), read func(T) (token string, expires time.Time)) TokenFunc {
	return func(context.Context) (string, time.Time, error) {
		t, err := get()
		if err != nil {
			return "", time.Time{}, err
		}
		token, expires := read(t)
		return token, expires, nil
	}
}

const (
	// Longer than an authority ever takes, and short enough to try once more within a call.
	fetchTimeout = time.Minute
	// Tokens live for an hour. What is renewed this early is not refused because a clock goes wrong or an answer is slow.
	renewEarly = 5 * time.Minute
	// The authority throttles those who ask too often, with a 429 for a minute. The pause doubles
	// with each failure: what is away for ten minutes is then asked some 25 times, and back in use
	// within half a minute.
	fetchPause    = time.Second
	maxFetchPause = 30 * time.Second
)

// tokens has one token for all calls. Workers that each fetched their own would meet the authority's limit when all the
// tokens expire at once (AzureAD/microsoft-authentication-library-for-dotnet#2855).
type tokens struct {
	get   TokenFunc
	hosts hosts

	mu       sync.Mutex // guards what follows
	token    string     // "": there is none
	expires  time.Time  // zero: nobody knows
	renew    time.Time  // from then on somebody should fetch the next; zero: nobody
	fetching *fetch     // nil: nobody is
	refused  bool       // there is no token because the service has refused it
	claims   string     // that the next one is to have; "": none
	failures int        // fetches in a row
	earliest time.Time  // of the next fetch

	brought brought
}

// fetch is a token under way, or one that will be once the pause is over.
type fetch struct {
	done chan struct{} // closed when there is a result
	fetched

	claims  string        // that the token is to have
	begun   bool          // guarded by tokens.mu, as is waiting
	waiting int           // callers
	left    chan struct{} // closed if all of them have gone before it has begun
}

// fetched is the result of a fetch.
type fetched struct {
	token    string
	expires  time.Time
	err      error
	panicked *panicError // for one caller to take; err is not nil then
}

// authorize sets the field unless the caller has, even to nothing. It is asked at each attempt and
// not once for a call: a call may have waited for its quota for longer than a token lives.
func (t *tokens) authorize(req *http.Request, prev *steadyhttp.Attempt) error {
	if values, own := authorization(req.Header); own {
		t.remember(first(values))
		return nil
	}
	if !t.areFor(req.URL) {
		return nil
	}
	if prev != nil && prev.Verdict.Class == steadyhttp.Unauthorized && prev.Response != nil {
		refused, _ := strings.CutPrefix(prev.Request.Header.Get("Authorization"), bearer)
		t.refuse(refused, claimsOf(prev.Response.Header))
	}
	token, err := t.current(req.Context())
	if err != nil {
		return fmt.Errorf("defender: Config.Token: %w", err)
	}
	req.Header.Set("Authorization", bearer+token)
	return nil
}

// authorization finds the field however its name is spelled: net/http sends the header's keys as
// they are.
func authorization(h http.Header) ([]string, bool) {
	const name = "Authorization"
	if values, ok := h[name]; ok {
		return values, true
	}
	for key, values := range h {
		if len(key) == len(name) && equalFold(key, "authorization") {
			return values, true
		}
	}
	return nil, false
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// brought is what callers have set Authorization to themselves, the last values of it, as hashes.
type brought struct {
	once   sync.Once
	seed   maphash.Seed
	mu     sync.Mutex // guards what follows
	hashes [128]uint64
	n      int
}

func (b *brought) hash(value string) uint64 {
	b.once.Do(func() { b.seed = maphash.MakeSeed() })
	return maphash.String(b.seed, value)
}

// have requires that b.mu is held.
func (b *brought) have(hash uint64) bool {
	return slices.Contains(b.hashes[:min(b.n, len(b.hashes))], hash)
}

func (t *tokens) remember(value string) {
	b := &t.brought
	hash := b.hash(value)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.have(hash) {
		b.hashes[b.n%len(b.hashes)] = hash
		b.n++
	}
}

// isCallers reports whether a caller has brought this value.
func (t *tokens) isCallers(value string) bool {
	b := &t.brought
	hash := b.hash(value)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have(hash)
}

const bearer = "Bearer "

// areFor reports whether u may see a token. A nextLink or a redirect may lead anywhere, and Azure Storage refuses a signed URL
// that comes with a token as well.
func (t *tokens) areFor(u *url.URL) bool { return t.hosts.have(u) && private(u) && !signed(u) }

// refuse drops a token that the service did not take, and keeps the claims that the next one is to
// have. Of the many calls that it was refused to, the first does it: the others find the next token
// there, or on its way.
func (t *tokens) refuse(token, claims string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if token != "" && token == t.token {
		t.token, t.refused, t.claims = "", true, claims
	}
}

// current returns the token, and waits for one if there is none. Near the end of the token's life the
// next is fetched beside the calls, which go on with the old: an authority that hangs then takes
// nobody's time.
func (t *tokens) current(ctx context.Context) (string, error) {
	token, f := t.look()
	if f == nil {
		return token, nil
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		t.leave(f)
		return "", context.Cause(ctx)
	}
	if f.err == nil {
		return f.token, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch p := f.panicked; {
	case p != nil:
		// It goes on in one of those who waited, as it would have without the goroutine. The others get
		// an error. A renewal that nobody waits for is tried again, and fails in a call once it must.
		f.panicked = nil
		panic(p)
	case t.valid(time.Now()):
		return t.token, nil // a failed renewal harms nobody as long as the old one lives
	}
	return "", f.err
}

// look returns the token, or the fetch that must be waited for.
func (t *tokens) look() (string, *fetch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	valid := t.valid(now)
	if t.fetching == nil && (!valid || t.due(now)) {
		wait := t.earliest.Sub(now)
		t.fetching = &fetch{
			done: make(chan struct{}), left: make(chan struct{}), begun: wait <= 0,
			claims: t.claims,
		}
		go t.run(t.fetching, wait)
	}
	if valid {
		return t.token, nil
	}
	t.fetching.waiting++
	return "", t.fetching
}

// leave calls a fetch off that has not begun, if nobody is left who wants it.
func (t *tokens) leave(f *fetch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.waiting--; f.waiting == 0 && !f.begun && t.fetching == f {
		t.fetching = nil
		close(f.left)
	}
}

// sitOut waits for the pause before a fetch to end, and reports false if that was called off.
func (t *tokens) sitOut(f *fetch, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.left:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.begun = t.fetching == f
	return f.begun
}

// valid reports whether there is a token to use. It requires that t.mu is held, as does due.
func (t *tokens) valid(now time.Time) bool {
	return t.token != "" && (t.expires.IsZero() || now.Before(t.expires))
}

// due reports whether it is time to renew the token. A failure has put that off.
func (t *tokens) due(now time.Time) bool {
	return !t.renew.IsZero() && !now.Before(t.renew) && !now.Before(t.earliest)
}

// run fetches on its own goroutine, so that the fetch does not end with the caller who happened to begin it: others are
// waiting for it too. Nor does it have the values of that caller's context, among which net/http finds the trace of the
// attempt: the fetch's request would count as the attempt's.
func (t *tokens) run(f *fetch, wait time.Duration) {
	if wait > 0 && !t.sitOut(f, wait) {
		return
	}
	ctx := context.WithValue(context.Background(), claimsKey{}, f.claims)
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	// Sources without a context may hang for longer: they are given up on, and what they bring then is too late.
	stop := context.AfterFunc(ctx, func() { t.end(f, fetched{err: errFetchTimeout}) })
	defer stop()

	o := fetched{err: errNoReturn}
	defer func() {
		if value := recover(); value != nil {
			o = fetched{err: errPanicked, panicked: &panicError{value, debug.Stack()}}
		}
		t.end(f, o)
	}()
	o.token, o.expires, o.err = t.get(ctx)
	o.err = answered(neterr.Solid("Config.Token", o.err))
}

// end keeps the result of a fetch, and lets those go who wait for it.
func (t *tokens) end(f *fetch, o fetched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fetching != f {
		return // it was given up on
	}
	t.fetching = nil
	if o.err == nil {
		o.err = sound(o.token)
	}
	now := time.Now()
	switch {
	case o.err != nil:
		t.earliest = now.Add(min(fetchPause<<min(t.failures, 10), maxFetchPause))
		t.failures++
	case t.refused: // if the next one is too, it is not the token
		t.earliest = now.Add(fetchPause)
	}
	if o.err == nil {
		t.failures, t.claims = 0, "" // if they are still missed, the next refusal says so
		t.keep(o.token, o.expires, now)
	}
	f.fetched = o
	close(f.done)
}

// keep requires that t.mu is held. A token that has expired on arrival was dated by a clock that differs from ours: like one
// without a date, it is good until it is refused. A source that keeps tokens itself may bring the old one again: then the
// rest of its life is divided anew, and the source is asked a few times more instead of at every call.
func (t *tokens) keep(token string, expires, now time.Time) {
	t.token, t.refused = token, false
	t.expires, t.renew = time.Time{}, time.Time{}
	if life := expires.Sub(now); !expires.IsZero() && life > 0 {
		t.expires = expires.Round(0) // by the wall clock: the other stands still while the machine sleeps
		t.renew = t.expires.Add(-min(renewEarly, life/5))
	}
}

// sound refuses what no service can take, without telling what it is.
func sound(token string) error {
	if token == "" {
		return unsound("it returned an empty token and no error; return one of the two")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return unsound("the token has a space, a line break or another byte that no token has; " +
			"return it alone, without \"Bearer\" before it")
	}
	return nil
}

// unsound is a mistake of the function's, which the next attempt would only meet again.
type unsound string

func (u unsound) Error() string { return string(u) }

// NonRetriable has the name that Azure's SDK gave it (azcore/internal/errorinfo).
func (unsound) NonRetriable() {}

var (
	errFetchTimeout = fmt.Errorf("no token came within %v: %w", fetchTimeout, context.DeadlineExceeded)
	errNoReturn     = errors.New("it ended its goroutine")
	errPanicked     = errors.New("it panicked")
)

// panicError takes a panic from the goroutine where nobody could recover it to a caller who can.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("defender: Config.Token panicked: %v\n\n%s", p.value, p.stack)
}
