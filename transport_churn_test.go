package steadyhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/long"
)

// The churn makes calls of all kinds through Transports of all kinds to bases that fail, lie, hang
// and panic, with orders among them that must not be carried out twice, by nobody. STEADYHTTP_LONG
// makes it so many times as many calls, of which a sixth goes over sockets: the full run is 100.
// STEADYHTTP_CHURN_SEED makes a run's choices once more.
const (
	churnDefault = 20_000
	churnWire    = 6 // one call of so many
)

func churnSize(t *testing.T) (calls int, seed uint64) {
	const variable = "STEADYHTTP_CHURN_SEED"
	seed = rand.Uint64()
	if value := os.Getenv(variable); value != "" {
		given, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
		seed = given
	}
	return churnDefault * long.Times(t), seed
}

// churn is what all calls of a run share. A call is known by its number, which is in its path.
type churn struct {
	*testing.T
	seed     uint64
	wire     bool           // over sockets
	done     []atomic.Int32 // by call: how often its order was carried out
	arrivals []atomic.Int32 // by call: attempts that reached a base, or requests that reached a server
	opened   atomic.Int64   // response bodies that were given out, and
	closed   atomic.Int64
	given    atomic.Int64 // request bodies that can be sent once, and
	ended    atomic.Int64
	gates    []*churnGate
	reports  sync.Map // by kind of failure: how many there were, an *atomic.Int32
}

func newChurn(t *testing.T, calls int, seed uint64) *churn {
	return &churn{
		T: t, seed: seed, done: make([]atomic.Int32, calls), arrivals: make([]atomic.Int32, calls),
	}
}

// dice returns the choices that are made for the nth call, the same in each run with the same seed.
func (c *churn) dice(n int, salt uint64) *rand.Rand {
	return rand.New(rand.NewPCG(c.seed+salt, uint64(n)))
}

// fail reports no more of each kind than what can be read.
func (c *churn) fail(n int, format string, args ...any) {
	times, _ := c.reports.LoadOrStore(format, new(atomic.Int32))
	if times.(*atomic.Int32).Add(1) <= 3 {
		c.Errorf("seed %d, call %d: %s; %s", c.seed, n, fmt.Sprintf(format, args...), c.history(n))
	}
}

// history tells what a call's attempts met.
func (c *churn) history(n int) string {
	if c.wire {
		return fmt.Sprintf("%d requests of it arrived", c.arrivals[n].Load())
	}
	var fates []fate
	for attempt := range int(c.arrivals[n].Load()) {
		fates = append(fates, c.fate(n, attempt, true))
	}
	return fmt.Sprintf("its attempts: %v", fates)
}

const (
	orderPrefix = "/order/" // isolates: not to be done twice, whatever its method, header or body says
	plainPrefix = "/thing/"
)

// churnCall reads a call's number out of its path, which a redirect keeps.
func churnCall(req *http.Request) (n int, order bool) {
	number, order := strings.CutPrefix(req.URL.Path, orderPrefix)
	if !order {
		number = strings.TrimPrefix(req.URL.Path, plainPrefix)
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		panic("no call's path: " + req.URL.Path)
	}
	return n, order && req.Method == http.MethodPost
}

// churnIdempotent is the policy of the service: orders are never idempotent, not even with a key.
func churnIdempotent(req *http.Request) bool {
	if strings.HasPrefix(req.URL.Path, orderPrefix) && req.Method == http.MethodPost {
		return false
	}
	_, key := req.Header["Idempotency-Key"]
	return key || req.Method != http.MethodPost
}

func (c *churn) carryOut(n int, order bool) {
	if !order {
		return
	}
	if times := c.done[n].Add(1); times > 1 {
		c.fail(n, "the order was carried out %d times", times)
	}
}

// fate is what a base does with an attempt.
type fate int

const (
	fateAnswers fate = iota
	fateThrottles
	fateThrottlesUndated
	fateUnauthorized
	fateNotFound
	fate500Before
	fate500After
	fate503Hangs  // its body does
	fateBreaksOff // a 200's body does
	fateResetBefore
	fateResetAfter
	fateRefusesToDial
	fateLiesDial     // after it was sent, and said so to the hooks
	fateLiesDNS      // likewise
	fateLiesReplay   // sent, and sent again to a closed port
	fateLiesWrote    // likewise, of the headers only, as http.ClientConn tells
	fateLiesDialMute // without a word to the hooks: see below
	fateNeither      // response nor error, after it was done
	fateBoth         // response and error, after it was done
	fateNoBody       // a nil one
	fateForeign      // the response is another request's
	fatePanicsBefore
	fatePanicsAfter
	fateHangsBefore
	fateHangsAfter
	fateDeaf // hangs, and does not hear that the caller has gone
	fate303  // after it was done
	fate307  // to another origin, which is to do it
	fate308
	fates
)

var fateNames = [fates]string{
	"200", "429", "429 undated", "401", "404", "500 before", "500 after", "503 hangs", "breaks off",
	"reset before", "reset after", "refuses to dial", "lies dial", "lies DNS", "lies replay",
	"lies wrote", "lies dial mute", "neither", "both", "no body", "foreign", "panics before",
	"panics after", "hangs before", "hangs after", "deaf", "303", "307", "308",
}

func (f fate) String() string { return fateNames[f] }

// fate returns what the nth call's attempt, counted from 0, will meet.
//
// A base that has sent, says in a bare dial error that it has not, and tells no httptrace hook, is
// a liar beyond proof: it does all that one which kept the contract would do. Such bases meet no
// orders.
func (c *churn) fate(n, attempt int, order bool) fate {
	dice := c.dice(n, 1+uint64(attempt))
	if dice.IntN(100) < 35 {
		return fateAnswers
	}
	f := fate(dice.IntN(int(fates)))
	if f == fateLiesDialMute && order {
		return fateLiesDial
	}
	return f
}

// churnBase meets each attempt with its fate, in memory.
type churnBase struct{ *churn }

var errChurnDial = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

func (b churnBase) RoundTrip(req *http.Request) (*http.Response, error) {
	n, order := churnCall(req)
	fate := b.fate(n, int(b.arrivals[n].Add(1))-1, order)
	if len(req.Header["X-Base"]) > 0 {
		b.fail(n, "an attempt has what the base added to the one before")
	}
	req.Header.Add("X-Base", fate.String()) // as signers do that know no better
	hooks := httptrace.ContextClientTrace(req.Context())
	if req.Body != nil {
		defer req.Body.Close()
	}
	if fate == fateRefusesToDial {
		return nil, errChurnDial
	}
	switch {
	case fate == fateLiesWrote:
		if hooks != nil && hooks.WroteHeaders != nil {
			hooks.WroteHeaders()
		}
	case fate != fateLiesDialMute:
		sending(hooks)
	}
	if req.Body != nil && fate != fateHangsBefore {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return nil, err
		}
	}
	wait := func() error {
		select {
		case <-req.Context().Done():
			return req.Context().Err()
		case <-time.After(time.Minute):
			return io.ErrUnexpectedEOF
		}
	}
	switch fate {
	case fateThrottles:
		return b.answer(req, 429, "", "Retry-After: 1")
	case fateThrottlesUndated:
		return b.answer(req, 429, envelope("TooManyRequests", "m", "t"))
	case fateUnauthorized:
		return b.answer(req, 401, "")
	case fateNotFound:
		return b.answer(req, 404, envelope("ResourceNotFound", "m", "t"))
	case fate500Before:
		return b.answer(req, 500, envelope("InternalServerError", "m", "t"))
	case fateResetBefore:
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	case fatePanicsBefore:
		panic(fate)
	case fateHangsBefore:
		return nil, wait()
	case fate307:
		return b.answer(req, 307, "", "Location: http://other.example"+req.URL.Path)
	case fate308:
		return b.answer(req, 308, "", "Location: http://third.example"+req.URL.Path)
	}

	b.carryOut(n, order)
	switch fate {
	case fate500After:
		return b.answer(req, 500, strings.Repeat("busy ", 20))
	case fate503Hangs:
		resp, err := answers(503, "")(req)
		body := &hangingBody{request: req.Context(), closed: make(chan struct{})}
		resp.Body, resp.ContentLength = b.watch(body), -1
		return resp, err
	case fateBreaksOff:
		resp, err := answers(200, "")(req)
		resp.Body = b.watch(io.NopCloser(io.MultiReader(strings.NewReader("some"), breakingReader{})))
		resp.ContentLength = 100
		return resp, err
	case fateResetAfter:
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	case fateLiesDial, fateLiesWrote, fateLiesDialMute:
		return nil, errChurnDial
	case fateLiesDNS:
		return nil, &net.DNSError{Err: "no such host", Name: "api.example", IsTemporary: true}
	case fateLiesReplay:
		if hooks != nil && hooks.GetConn != nil {
			hooks.GetConn("api.example:80")
		}
		return nil, errChurnDial
	case fateNeither:
		return nil, nil
	case fateBoth:
		resp, _ := b.answer(req, 200, "fine")
		return resp, errChurnDial
	case fateNoBody:
		resp, err := b.answer(req, 200, "")
		resp.Body.Close()
		resp.Body = nil
		return resp, err
	case fateForeign:
		resp, err := b.answer(req, 200, "fine")
		resp.Request = req.Clone(context.Background())
		return resp, err
	case fatePanicsAfter:
		panic(fate)
	case fateHangsAfter:
		return nil, wait()
	case fateDeaf:
		time.Sleep(time.Minute) // virtual
		return b.answer(req, 200, "late")
	case fate303:
		return b.answer(req, 303, "", "Location: http://other.example"+req.URL.Path)
	}
	return b.answer(req, 200, "fine")
}

// sending tells what net/http would.
func sending(hooks *httptrace.ClientTrace) {
	if hooks == nil {
		return
	}
	if hooks.GetConn != nil {
		hooks.GetConn("api.example:80")
	}
	if hooks.GotConn != nil {
		hooks.GotConn(httptrace.GotConnInfo{})
	}
	if hooks.WroteHeaders != nil {
		hooks.WroteHeaders()
	}
}

func (b churnBase) answer(
	req *http.Request, status int, body string, fields ...string,
) (*http.Response, error) {
	resp, err := answers(status, body, fields...)(req)
	resp.Request = req
	resp.Body = b.watch(resp.Body)
	return resp, err
}

func (c *churn) watch(body io.ReadCloser) io.ReadCloser {
	c.opened.Add(1)
	return &watchedBody{ReadCloser: body, closed: &c.closed}
}

// hangingBody gives nothing until it is closed, its request has ended, or a minute is over.
type hangingBody struct {
	request context.Context
	once    sync.Once
	closed  chan struct{}
}

func (b *hangingBody) Read([]byte) (int, error) {
	select {
	case <-b.closed:
		return 0, net.ErrClosed
	case <-b.request.Done():
		return 0, b.request.Err()
	case <-time.After(time.Minute):
		return 0, io.ErrUnexpectedEOF
	}
}

func (b *hangingBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

type breakingReader struct{}

func (breakingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// churnGate refuses a few, and counts.
type churnGate struct {
	*churn
	entered, left atomic.Int64
}

func (c *churn) gate() steadyhttp.Gate {
	g := &churnGate{churn: c}
	c.gates = append(c.gates, g)
	return g
}

func (g *churnGate) Enter(
	_ context.Context, a steadyhttp.Attempt,
) (steadyhttp.Pass, error) {
	n, _ := churnCall(a.Request)
	if g.dice(n, uint64(a.N)<<32).IntN(50) == 0 {
		return nil, &steadyhttp.Refusal{Err: errors.New("full")}
	}
	g.entered.Add(1)
	return steadyhttp.PassFunc(func(a steadyhttp.Attempt) {
		g.left.Add(1)
		n, order := churnCall(a.Request)
		if order && a.Sent.IsZero() && a.Sends == 0 && a.Response != nil {
			g.fail(n, "an attempt that was answered is told as never sent")
		}
	}), nil
}

// transports returns Transports of all kinds above a base.
func (c *churn) transports(base http.RoundTripper) []*steadyhttp.Transport {
	trace := &steadyhttp.Trace{
		Start:        func(ctx context.Context, _ *http.Request) context.Context { return ctx },
		AttemptStart: func(ctx context.Context, _ steadyhttp.Attempt) context.Context { return ctx },
		AttemptDone:  func(context.Context, steadyhttp.Attempt) {},
		Done:         func(context.Context, steadyhttp.Attempt) {},
	}
	paths := perKey(func(req *http.Request) string {
		n, _ := churnCall(req)
		return strconv.Itoa(n % 97)
	}, func(string) steadyhttp.Gate { return steadyhttp.Limit(nil) }, 50)
	authorize := func(req *http.Request, prev *steadyhttp.Attempt) error {
		if n, _ := churnCall(req); prev != nil && c.dice(n, 7<<40).IntN(20) == 0 {
			return errors.New("no token")
		}
		req.Header.Set("Authorization", "Bearer x")
		return nil
	}
	keyed := atOnce()
	keyed.IdempotencyKey = true
	timed := atOnce()
	timed.AttemptTimeout, timed.IdleTimeout = 10*time.Second, 5*time.Second
	timed.MaxElapsed = time.Minute
	reading := timed
	reading.MaxRead, reading.MaxBuffer = 1<<10, 1<<10
	paid := steadyhttp.Policy{NewBackOff: newZeroBackOff}
	buffered := keyed
	buffered.MaxBuffer = 1 << 10

	list := []*steadyhttp.Transport{
		{Policy: atOnce()},
		{Policy: keyed},
		{Policy: paid, Trace: trace},
		{Policy: timed, Gates: []steadyhttp.Gate{c.gate()}},
		{Policy: buffered, Gates: []steadyhttp.Gate{paths, c.gate()}},
		{Policy: reading, Trace: trace, Prepare: authorize},
		{
			Policy: keyed, Trace: trace, Prepare: authorize,
			Gates: []steadyhttp.Gate{c.gate(), paths, c.gate()},
		},
		{Policy: atOnce(), Base: &steadyhttp.Transport{
			Base: base, Policy: keyed, Gates: []steadyhttp.Gate{c.gate()},
		}},
	}
	for _, t := range list {
		t.Policy.Idempotent = churnIdempotent
		if t.Base == nil {
			t.Base = base
		} else {
			t.Base.(*steadyhttp.Transport).Policy.Idempotent = churnIdempotent
		}
	}
	return list
}

// churnBody is a request body that can be sent once.
type churnBody struct {
	io.Reader
	once  sync.Once
	ended *atomic.Int64
}

func (b *churnBody) Close() error {
	b.once.Do(func() { b.ended.Add(1) })
	return nil
}

// request makes the nth call's request.
func (c *churn) request(
	ctx context.Context, dice *rand.Rand, origin string, n int,
) (req *http.Request, order bool) {
	order = dice.IntN(2) == 0
	method, path := http.MethodPost, orderPrefix
	if !order {
		path = plainPrefix
		method = []string{"GET", "HEAD", "PUT", "POST", "DELETE", "GET"}[dice.IntN(6)]
	}
	var body io.Reader
	if method == http.MethodPost || method == http.MethodPut {
		switch dice.IntN(5) {
		case 0: // none
		case 1:
			c.given.Add(1)
			body = &churnBody{Reader: strings.NewReader("what to do"), ended: &c.ended}
		default:
			body = strings.NewReader("what to do")
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, origin+path+strconv.Itoa(n), body)
	if err != nil {
		panic(err)
	}
	switch dice.IntN(5) {
	case 0:
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%q", strconv.Itoa(n)))
	case 1:
		req.Header.Set("X-Idempotency-Key", strconv.Itoa(n))
	case 2:
		req.Header["Idempotency-Key"] = nil // net/http goes by the map's key
	}
	return req, order
}

// settings makes the nth call's context. Those who end it do so in the time in which the bases
// hang.
func (c *churn) settings(
	dice *rand.Rand, patience time.Duration,
) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stop = cancel
	switch dice.IntN(8) {
	case 0:
		var expire func()
		ctx, expire = context.WithTimeout(ctx, time.Duration(1+dice.Int64N(int64(patience))))
		stop = func() { expire(); cancel() }
	case 1:
		timer := time.AfterFunc(time.Duration(dice.Int64N(int64(patience))), cancel)
		stop = func() { timer.Stop(); cancel() }
	case 2:
		if dice.IntN(4) == 0 {
			cancel()
		}
	}
	switch dice.IntN(6) {
	case 0:
		ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) { p.IdempotencyKey = true })
	case 1:
		ctx = steadyhttp.WithPolicy(ctx, func(p *steadyhttp.Policy) {
			p.MaxRead, p.MaxBuffer = 1<<10, 1<<10
		})
	case 2:
		ctx = steadyhttp.WithTrace(ctx, &steadyhttp.Trace{
			AttemptDone: func(context.Context, steadyhttp.Attempt) {},
		})
	}
	return ctx, stop
}

// call makes the nth call, and looks at what came of it.
func (c *churn) call(n int, list []*steadyhttp.Transport, origin string, patience time.Duration) {
	dice := c.dice(n, 0)
	transport := list[dice.IntN(len(list))]
	ctx, stop := c.settings(dice, patience)
	defer stop()
	req, order := c.request(ctx, dice, origin, n)
	defer func() {
		switch p := recover().(type) {
		case nil, fate:
		default:
			panic(p)
		}
	}()
	send := transport.RoundTrip
	if dice.IntN(2) == 0 {
		client := &http.Client{Transport: transport}
		if dice.IntN(5) == 0 {
			client.Timeout = patience
		}
		send = client.Do
	}
	resp, err := send(req)
	if len(req.Header["X-Base"]) > 0 {
		c.fail(n, "the caller's request was changed")
	}
	if (resp == nil) == (err == nil) {
		c.fail(n, "got %v and %v", resp, err)
	}
	if order && errors.Is(err, steadyhttp.ErrNotSent) && c.done[n].Load() > 0 {
		c.fail(n, "an order that was carried out is told as never sent: %v", err)
	}
	if err != nil {
		return
	}
	switch dice.IntN(6) {
	case 0: // closed unread
	case 1:
		resp.Body.Read(make([]byte, 1))
	default:
		io.Copy(io.Discard, resp.Body)
	}
	resp.Body.Close()
	if status := resp.StatusCode; order && status == 200 && req.Method == http.MethodPost {
		if times := c.done[n].Load(); times != 1 {
			c.fail(n, "the order was answered with a success, and carried out %d times", times)
		}
	}
}

// run makes the calls from first up to last by some workers at once.
func (c *churn) run(workers, first, last int, call func(n int)) {
	var next atomic.Int64
	next.Store(int64(first))
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for n := int(next.Add(1)) - 1; n < last; n = int(next.Add(1)) - 1 {
				call(n)
			}
		})
	}
	running.Wait()
}

// nothingLeft fails the test unless all that was given out has come back.
func (c *churn) nothingLeft() {
	c.Helper()
	c.reports.Range(func(format, times any) bool {
		c.Errorf("seed %d: %d times: %v", c.seed, times.(*atomic.Int32).Load(), format)
		return true
	})
	if opened, closed := c.opened.Load(), c.closed.Load(); opened != closed {
		c.Errorf("seed %d: %d response bodies were opened, %d closed", c.seed, opened, closed)
	}
	if given, ended := c.given.Load(), c.ended.Load(); given != ended {
		c.Errorf("seed %d: %d request bodies were given, %d closed", c.seed, given, ended)
	}
	for i, g := range c.gates {
		if entered, left := g.entered.Load(), g.left.Load(); entered != left || entered == 0 {
			c.Errorf("seed %d: gate %d was entered %d times, and left %d times", c.seed, i, entered, left)
		}
	}
}

// carriedOut returns how many orders were.
func (c *churn) carriedOut() (orders int) {
	for i := range c.done {
		if c.done[i].Load() > 0 {
			orders++
		}
	}
	return orders
}

// No order is carried out twice by anybody, and nothing is left, whatever the bases, the
// callers and the servers do.
func TestChurnInMemory(t *testing.T) {
	calls, seed := churnSize(t)
	calls -= calls / churnWire
	began := time.Now()
	var c *churn
	// The bubble ends when its last goroutine has: it fails if one never does.
	synctest.Test(t, func(t *testing.T) {
		c = newChurn(t, calls, seed)
		list := c.transports(churnBase{c})
		c.run(64, 0, calls, func(n int) { c.call(n, list, "http://api.example", time.Minute) })
		time.Sleep(time.Hour) // virtual: what hangs lets go
		c.nothingLeft()
	})
	attempts, most := 0, int32(0)
	for i := range c.arrivals {
		n := c.arrivals[i].Load()
		attempts += int(n)
		most = max(most, n)
	}
	t.Logf("seed %d: %d calls, %d attempts (at most %d of one), %d orders carried out, %v",
		seed, calls, attempts, most, c.carriedOut(), time.Since(began).Round(time.Millisecond))
	if attempts < calls || c.carriedOut() < calls/5 {
		t.Error("the test tests nothing")
	}
}

// churnServer is an HTTP/1.1 server that closes kept-alive connections in the middle of requests.
type churnServer struct {
	*churn
	*httptest.Server
	conns atomic.Int64 // open ones
}

func (c *churn) serveHTTP1() *churnServer {
	s := &churnServer{churn: c}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.conns.Add(-1)
		}
	}
	s.Start()
	return s
}

func (s *churnServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, order := churnCall(r)
	arrival := s.arrivals[n].Add(1)
	dice := s.dice(n, uint64(arrival)<<20)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	fault := dice.IntN(100)
	if fault < 2 {
		w.Header().Set("Retry-After-Ms", "1")
		w.WriteHeader(429)
		return
	}
	s.carryOut(n, order)
	switch {
	case fault < 40: // net/http replays what it takes for idempotent, if the connection was reused
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		if fault < 30 { // no TIME_WAIT: a full run has more closings than there are ports
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	case fault < 43:
		w.WriteHeader(503)
	case fault < 45:
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "some") // and breaks off
	default:
		io.WriteString(w, "fine")
	}
}

// TestChurnHTTP1 goes over sockets, with net/http's own replays, which it counts.
func TestChurnHTTP1(t *testing.T) {
	calls, seed := churnSize(t)
	all := calls
	calls = calls / churnWire * 2 / 3
	baseline := leakSettled()
	began := time.Now()
	c := newChurn(t, calls, seed)
	c.wire = true
	server := c.serveHTTP1()
	base := &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}

	list := c.transports(base)
	var replays atomic.Int64
	c.run(churnWorkers, 0, calls, func(n int) {
		// Most calls are one attempt, so that each further request of them is a replay of
		// net/http's.
		if n%4 == 0 {
			c.call(n, list, server.URL, 5*time.Millisecond)
			return
		}
		single := &steadyhttp.Transport{Base: base, Policy: atOnce()}
		single.Policy.MaxAttempts, single.Policy.Idempotent = 1, churnIdempotent
		single.Policy.IdempotencyKey = n%4 == 1
		c.call(n, []*steadyhttp.Transport{single}, server.URL, time.Minute)
		replays.Add(max(0, int64(c.arrivals[n].Load())-1))
	})

	if !leakPoll(func() bool {
		base.CloseIdleConnections() // again: one that was dialled for a call that has ended comes later
		return server.conns.Load() == 0
	}) {
		t.Errorf("seed %d: %d connections are open", seed, server.conns.Load())
	}
	server.Close()
	assertGoroutines(t, baseline)
	c.nothingLeft()
	t.Logf("seed %d: %d calls, %d replays by net/http seen, %d orders carried out, %v",
		seed, calls, replays.Load(), c.carriedOut(), time.Since(began).Round(time.Millisecond))
	if replays.Load() < int64(all)/200 || c.carriedOut() < calls/5 {
		t.Error("too few: the test tests nothing")
	}
}

// churnServer2 speaks so much of HTTP/2 (RFC 9113) that it can refuse streams, say GOAWAY below one
// and close in the middle: net/http replays the first two. It does not read header blocks: orders
// are known by their bodies.
type churnServer2 struct {
	*churn
	listener net.Listener
	serving  sync.WaitGroup
	conns    atomic.Int64 // open ones
	salt     atomic.Uint64
	streams  atomic.Int64
}

// refusal reports whether it is time to refuse a stream. net/http sends it again at once, but if
// that is refused too, after a second: so the next is not refused before all workers have had
// theirs.
func (s *churnServer2) refusal() bool { return s.streams.Add(1)%(3*churnWorkers/2) == 0 }

const churnWorkers = 16

func (c *churn) serveHTTP2() *churnServer2 {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	s := &churnServer2{churn: c, listener: listener}
	s.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.serving.Go(func() {
				defer s.conns.Add(-1)
				defer conn.Close()
				(&churn2Conn{churnServer2: s, r: bufio.NewReader(conn), w: conn,
					dice: s.dice(int(s.salt.Add(1)), 5<<40)}).serve()
			})
		}
	})
	return s
}

type churn2Conn struct {
	*churnServer2
	r    *bufio.Reader
	w    net.Conn
	dice *rand.Rand
	open map[uint32]*bytes.Buffer
}

const h2Data, h2WindowUpdate = 0, 8 // beside those of wire_test.go

func (c *churn2Conn) write(kind, flags byte, stream uint32, payload ...byte) {
	c.w.Write(h2Frame(kind, flags, stream, payload...))
}

func (c *churn2Conn) serve() {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	if _, err := io.ReadFull(c.r, make([]byte, len(preface))); err != nil {
		return
	}
	c.write(h2Settings, 0, 0)
	c.open = make(map[uint32]*bytes.Buffer)
	for {
		var head [9]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[:4])>>8)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			return
		}
		flags, stream := head[4], binary.BigEndian.Uint32(head[5:])
		switch head[3] {
		case h2Settings:
			if flags&1 == 0 {
				c.write(h2Settings, 1, 0)
			}
		case h2Ping:
			if flags&1 == 0 {
				c.write(h2Ping, 1, 0, payload...)
			}
		case h2Reset:
			delete(c.open, stream)
		case h2GoAway:
			return
		case h2Headers:
			if !c.refusal() {
				c.open[stream] = new(bytes.Buffer)
			} else if stream > 1 && c.dice.IntN(4) == 0 {
				// Those above are not carried out either: nobody reads them any more.
				c.write(h2GoAway, 0, 0, append(binary.BigEndian.AppendUint32(nil, stream-1), 0, 0, 0, 0)...)
				return
			} else {
				c.write(h2Reset, 0, stream, 0, 0, 0, h2RefusedStream)
			}
		case h2Data:
			if len(payload) > 0 {
				c.write(h2WindowUpdate, 0, 0, 0, 0, 0, byte(len(payload))) // what we are sent is short
			}
			if body := c.open[stream]; body != nil {
				body.Write(payload)
			}
		}
		if body := c.open[stream]; body != nil && flags&1 != 0 && head[3] <= h2Headers {
			delete(c.open, stream)
			if !c.answer(stream, body.String()) {
				return
			}
		}
	}
}

// answer reports whether the connection stays.
func (c *churn2Conn) answer(stream uint32, body string) bool {
	fault := c.dice.IntN(1000)
	if number, order := strings.CutPrefix(body, orderPrefix); order {
		n, err := strconv.Atoi(number)
		if err != nil {
			panic(err)
		}
		c.carryOut(n, true)
	}
	switch {
	case fault < 10:
		return false
	case fault < 15:
		c.w.(*net.TCPConn).SetLinger(0)
		return false
	case fault < 40:
		c.write(h2Reset, 0, stream, 0, 0, 0, h2Internal)
	default:
		status := byte(0x88) // RFC 7541 appendix A: 200, 500
		if fault < 60 {
			status = 0x8e
		}
		c.write(h2Headers, 0x5, stream, status) // its headers and itself end here
	}
	return true
}

// TestChurnHTTP2 is the same for HTTP/2, whose replays no server sees: httptrace counts them.
func TestChurnHTTP2(t *testing.T) {
	calls, seed := churnSize(t)
	all := calls
	calls = calls / churnWire / 3
	baseline := leakSettled()
	began := time.Now()
	c := newChurn(t, calls, seed)
	c.wire = true
	server := c.serveHTTP2()
	base := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	base.Protocols.SetUnencryptedHTTP2(true)
	list := c.transports(base)
	origin := "http://" + server.listener.Addr().String()

	var replays atomic.Int64
	c.run(churnWorkers, 0, calls, func(n int) {
		dice := c.dice(n, 0)
		transport := list[dice.IntN(len(list))]
		ctx, stop := c.settings(dice, 20*time.Millisecond)
		defer stop()
		if n%4 > 0 {
			// One attempt: each further connection that it takes is for a replay.
			transport = &steadyhttp.Transport{Base: base, Policy: transport.Policy}
			transport.Policy.MaxAttempts = 1
			taken := int64(0)
			defer func() { replays.Add(max(0, taken-1)) }()
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GotConn: func(httptrace.GotConnInfo) { taken++ },
			})
		}
		req, order := c.request(ctx, dice, origin, n)
		if order {
			body := req.URL.Path
			req.ContentLength = int64(len(body))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
			if req.Body != nil {
				req.Body.Close()
			}
			req.Body, _ = req.GetBody()
		}
		resp, err := transport.RoundTrip(req)
		if (resp == nil) == (err == nil) {
			c.fail(n, "got %v and %v", resp, err)
		}
		if order && errors.Is(err, steadyhttp.ErrNotSent) && c.done[n].Load() > 0 {
			c.fail(n, "an order that was carried out is told as never sent: %v", err)
		}
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if times := c.done[n].Load(); order && resp.StatusCode == 200 && times != 1 {
				c.fail(n, "the order was answered with a success, and carried out %d times", times)
			}
		}
	})

	if !leakPoll(func() bool {
		base.CloseIdleConnections() // again: one that was dialled for a call that has ended comes later
		return server.conns.Load() == 0
	}) {
		t.Errorf("seed %d: %d connections are open", seed, server.conns.Load())
	}
	server.listener.Close()
	server.serving.Wait()
	assertGoroutines(t, baseline)
	c.nothingLeft()
	t.Logf("seed %d: %d calls, %d replays by net/http seen, %d orders carried out, %v",
		seed, calls, replays.Load(), c.carriedOut(), time.Since(began).Round(time.Millisecond))
	if replays.Load() < int64(all)/2000 || c.carriedOut() < calls/5 {
		t.Error("too few: the test tests nothing")
	}
}
