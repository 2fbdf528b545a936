package field

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"
)

var write = flag.Bool("write", false, "write the tables into the pages of docs")

// field is one case.
type field struct {
	name   string
	kind   string
	source string // who reported it, or asks for it
	rule   string // what is right
	// needs: "transport" for a client that is an http.RoundTripper, "reader" for one that takes any
	// io.Reader for a body.
	needs string
	wire  bool // over sockets; otherwise in virtual time
	check func(t *trial) error
}

// trial is a case on one client.
type trial struct {
	*testing.T
	client client
	ctx    context.Context

	mu      sync.Mutex // guards answers
	answers []*http.Response
}

// keep has an answer closed when the case is over: what is left open holds goroutines.
func (t *trial) keep(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers = append(t.answers, resp)
}

func (t *trial) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, resp := range t.answers {
		resp.Body.Close()
	}
}

// do makes a call, and keeps an eye on it.
func (t *trial) do(base http.RoundTripper, c call) result {
	return t.doWith(t.ctx, base, c)
}

func (t *trial) doWith(ctx context.Context, base http.RoundTripper, c call) result {
	if c.url == "" {
		c.url = "http://api.test/machines"
	}
	began := time.Now()
	resp, err := t.client.new(base, c)(ctx, c)
	t.keep(resp)
	r := result{err: err, took: time.Since(began), resp: resp}
	if resp != nil {
		r.status = resp.StatusCode
	}
	return r
}

// result is what became of a call.
type result struct {
	resp   *http.Response
	status int // 0: no answer
	err    error
	took   time.Duration
}

// text reads the answer.
func (r result) text() (string, error) {
	if r.err != nil {
		return "", r.err
	}
	return readAll(r.resp)
}

// answered wants an answer, whole and without an error.
func (r result) answered(status int, text string) error {
	if r.err != nil {
		return fmt.Errorf("error %q, want status %d", brief(r.err), status)
	}
	got, err := readAll(r.resp)
	switch {
	case r.status != status:
		return fmt.Errorf("status %d, want %d", r.status, status)
	case err != nil:
		return fmt.Errorf("reading the answer: %w", err)
	case got != text:
		return fmt.Errorf("answer %.40q of %d bytes, want %.40q", got, len(got), text)
	}
	return nil
}

func brief(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return text
}

// apply says whether the case means anything to a client.
func (f field) applies(c client) bool {
	switch f.needs {
	case "transport":
		return c.transport != nil
	case "reader":
		return !c.seeks
	}
	return true
}

// run makes a case's calls by one client.
func (f field) run(t *testing.T, c client) (err error) {
	try := func(t *testing.T, ctx context.Context) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		try := &trial{T: t, client: c, ctx: ctx}
		defer try.close()
		err = f.check(try)
	}
	// The contexts have no deadline: some clients go by it.
	if f.wire {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		defer time.AfterFunc(20*time.Second, cancel).Stop()
		try(t, ctx)
		return err
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(now))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		defer time.AfterFunc(100*24*time.Hour, cancel).Stop()
		try(t, ctx)
		cancel()
		synctest.Wait()
	})
	return err
}

// now is when the cases in virtual time begin.
var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func cases() []field {
	var all []field
	for _, kind := range []struct {
		name  string
		cases []field
	}{
		{"what is retried", append(retried(), overMany()...)},
		{"how long it waits", waits()},
		{"the request's body", bodies()},
		{"time and deadlines", append(deadlines(), moreTime()...)},
		{"the contract of net/http", contract()},
		{"faults on the wire", append(wire(), moreWire()...)},
		{"errors and secrets", errorsAndSecrets()},
	} {
		for _, c := range kind.cases {
			c.kind = kind.name
			all = append(all, c)
		}
	}
	return all
}

const (
	right = "yes"
	wrong = "no"
	none  = "–"
)

// ours names the cases in which steadyhttp is known to be wrong. The list has to be exact.
var ours = map[string]string{}

// TestField runs every case on every client; with the race detector, only on ours.
func TestField(t *testing.T) {
	all, list := clients(), cases()
	if raced {
		all = all[:1]
	}
	names := make(map[string]bool)
	results := make([][]string, len(list))
	var reasons strings.Builder
	for i, f := range list {
		if names[f.name] {
			t.Fatalf("two cases are called %q", f.name)
		}
		names[f.name] = true
		if f.source == "" || f.rule == "" {
			t.Errorf("%q has no source or no rule", f.name)
		}
		for j, c := range all {
			if !f.applies(c) {
				results[i] = append(results[i], none)
				continue
			}
			// A failed case of a peer is no failed test.
			err := f.run(t, c)
			switch {
			case err == nil:
				results[i] = append(results[i], right)
				if j == 0 && ours[f.name] != "" {
					t.Errorf("%q is right by now: take it off the list", f.name)
				}
				continue
			case j == 0 && ours[f.name] == "":
				t.Errorf("%s: %v", f.name, err)
			}
			results[i] = append(results[i], wrong)
			fmt.Fprintf(&reasons, "%s, %s: %v\n", f.name, c.name, err)
		}
	}
	t.Logf("%s", table(list, all, results))
	if os.Getenv("STEADYHTTP_FIELD_REASONS") != "" {
		t.Logf("why not:\n%s", &reasons)
	}
	if !raced {
		inDocs(t, list, all, results)
	}
}

// TestEachCaseCanFail runs the cases on clients that do nothing right: what none of them fails
// would hold whatever a client does.
func TestEachCaseCanFail(t *testing.T) {
	if raced {
		t.Skip("they race, for one")
	}
	list := []client{
		{name: "net/http", transport: bare, new: through(bare)},
		{name: "deaf", transport: deaf, new: through(deaf)},
		{name: "mad", transport: mad, new: through(mad)},
		{name: "loud", transport: loud, new: through(loud)},
	}
	for _, f := range cases() {
		failed := false
		for _, c := range list {
			failed = failed || f.run(t, c) != nil
		}
		if !failed {
			t.Errorf("%q holds for all of them", f.name)
		}
	}
}

// deaf sends nothing, and says that all is well.
func deaf(http.RoundTripper, call) http.RoundTripper {
	return transportFunc(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 299, Header: http.Header{}, Body: http.NoBody}, nil
	})
}

// mad sends everything six times without its body, at once and with other fields, whatever is
// answered, and keeps what comes.
func mad(base http.RoundTripper, _ call) http.RoundTripper {
	return transportFunc(func(req *http.Request) (resp *http.Response, err error) {
		req.Header.Set("X-Mad", "1")
		for range 6 {
			again := req.Clone(req.Context())
			again.Body, again.GetBody, again.ContentLength = nil, nil, 0
			again.URL.RawQuery += "&again"
			resp, err = base.RoundTrip(again)
		}
		if err != nil {
			return nil, errors.New("it did not work")
		}
		resp.Request = req.Clone(req.Context())
		if resp.StatusCode >= 500 {
			return resp, errors.New("an answer and an error")
		}
		return resp, nil
	})
}

// loud makes one attempt, reads all of its answer before it returns, waits as long as it is told
// to, and tells all it knows.
func loud(base http.RoundTripper, _ call) http.RoundTripper {
	return transportFunc(func(req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil {
			return resp, fmt.Errorf("\x1b[31m%s hunter2: lost", req.URL)
		}
		b, _ := readAll(resp)
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			select {
			case <-time.After(time.Duration(min(seconds, 1<<32)) * time.Second):
			case <-req.Context().Done():
			}
		}
		if resp.StatusCode >= 300 {
			return nil, fmt.Errorf("\x1b[31m%v %v", resp, b)
		}
		resp.Body, resp.ContentLength, resp.Trailer = io.NopCloser(strings.NewReader(b)), 7, nil
		return resp, nil
	})
}

// table sets the results out for a terminal.
func table(list []field, all []client, results [][]string) string {
	var b strings.Builder
	tabs := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(tabs, strings.Join(cells, "\t")) }
	head := []string{"case"}
	for _, c := range all {
		head = append(head, c.name)
	}
	row(append(head, "rule")...)
	kind := ""
	for i, f := range list {
		if f.kind != kind {
			kind = f.kind
			row(append([]string{strings.ToUpper(kind)}, shares(list, results, kind)...)...)
		}
		row(append(append([]string{f.name}, results[i]...), f.source)...)
	}
	row(append([]string{fmt.Sprintf("RIGHT OF %d CASES", len(list))}, shares(list, results, "")...)...)
	tabs.Flush()
	return b.String()
}

// shares are the percentages of one kind of cases, or of all, among those that apply.
func shares(list []field, results [][]string, kind string) []string {
	var cells []string
	for j := range results[0] {
		n, of := 0, 0
		for i := range list {
			if kind != "" && list[i].kind != kind || results[i][j] == none {
				continue
			}
			of++
			if results[i][j] == right {
				n++
			}
		}
		cells = append(cells, fmt.Sprintf("%d %%", 100*n/of))
	}
	return cells
}
