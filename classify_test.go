package steadyhttp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp"
)

// answered makes an attempt of a status, a body and header fields, as Classify gets it.
func answered(status int, body string, fields ...string) steadyhttp.Attempt {
	resp, _ := answers(status, body, fields...)(nil)
	return steadyhttp.Attempt{N: 1, Response: resp, Body: []byte(body)}
}

// failed makes an attempt of an error.
func failed(t testing.TB, err error) steadyhttp.Attempt {
	return steadyhttp.Attempt{N: 1, Request: newRequest(t, "GET", ""), Err: err}
}

// Every status from 200 to 599, by the zero Rules.
func TestClassOfStatus(t *testing.T) {
	for status := 100; status <= 599; status++ {
		want := steadyhttp.Success
		switch {
		case status == 401:
			want = steadyhttp.Unauthorized
		case status == 408:
			want = steadyhttp.Transient
		case status == 429:
			want = steadyhttp.Throttled
		case status == 501, status == 505:
			want = steadyhttp.Permanent
		case status >= 500:
			want = steadyhttp.Transient
		case status >= 400:
			want = steadyhttp.Permanent
		}
		if got := (&steadyhttp.Rules{}).Classify(answered(status, "")); got != (steadyhttp.Verdict{Class: want}) {
			t.Errorf("%d: %+v, want %v", status, got, want)
		}
	}
}

func TestClassString(t *testing.T) {
	for class, want := range map[steadyhttp.Class]string{
		0: "unclassified", steadyhttp.Success: "success", steadyhttp.Permanent: "permanent", steadyhttp.Transient: "transient",
		steadyhttp.Throttled: "throttled", steadyhttp.Unauthorized: "unauthorized", 6: "Class(6)", 255: "Class(255)",
	} {
		if got := class.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The order of the rules: 429, then what Parse says, then the code, then the status, then the default.
func TestOrderOfRules(t *testing.T) {
	parsed := func(class steadyhttp.Class, code string) func(steadyhttp.Attempt) steadyhttp.Verdict {
		return func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{Class: class, Code: code} }
	}
	rules := &steadyhttp.Rules{
		ByCode:   map[string]steadyhttp.Class{"Busy": steadyhttp.Transient, "429": steadyhttp.Permanent, "Gone": steadyhttp.Permanent},
		ByStatus: map[int]steadyhttp.Class{409: steadyhttp.Transient, 503: steadyhttp.Permanent, 202: steadyhttp.Transient},
	}
	with := func(parse func(steadyhttp.Attempt) steadyhttp.Verdict) *steadyhttp.Rules {
		r := *rules
		r.Parse = parse
		return &r
	}
	tests := []struct {
		name  string
		rules *steadyhttp.Rules
		a     steadyhttp.Attempt
		want  steadyhttp.Class
	}{
		{"429 without a code", rules, answered(429, ""), steadyhttp.Throttled},
		{"429 with a code that is permanent", rules, answered(429, envelope("Gone", "", "t")), steadyhttp.Throttled},
		{"429 with Defender's code", rules, answered(429, envelope("429", "", "t")), steadyhttp.Throttled},
		{"429 over Parse", with(parsed(steadyhttp.Permanent, "")), answered(429, ""), steadyhttp.Throttled},
		{"429 over ByStatus", &steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{429: steadyhttp.Permanent}}, answered(429, ""), steadyhttp.Throttled},
		{"code over status rule", rules, answered(409, envelope("Gone", "", "t")), steadyhttp.Permanent},
		{"code over default status", rules, answered(400, envelope("Busy", "", "t")), steadyhttp.Transient},
		{"the code 429 on another status", rules, answered(500, envelope("429", "", "t")), steadyhttp.Permanent},
		{"unknown code, known status", rules, answered(409, envelope("Other", "", "t")), steadyhttp.Transient},
		{"unknown code, unknown status", rules, answered(418, envelope("Other", "", "t")), steadyhttp.Permanent},
		{"no code, known status", rules, answered(503, "down"), steadyhttp.Permanent},
		{"codes are compared exactly", rules, answered(400, envelope("busy", "", "t")), steadyhttp.Permanent},
		{"a rule for a success", rules, answered(202, ""), steadyhttp.Transient},
		{"another success", rules, answered(200, ""), steadyhttp.Success},
		{"Parse's class over the code's", with(parsed(steadyhttp.Unauthorized, "Busy")), answered(400, ""), steadyhttp.Unauthorized},
		{"Parse without a class", with(parsed(0, "Busy")), answered(400, ""), steadyhttp.Transient},
	}
	for _, tt := range tests {
		if got := tt.rules.Classify(tt.a).Class; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A body below 400 is the caller's, and is not read for a code.
func TestSuccessIsNotParsed(t *testing.T) {
	rules := &steadyhttp.Rules{Parse: func(steadyhttp.Attempt) steadyhttp.Verdict {
		t.Error("Parse was asked about a success")
		return steadyhttp.Verdict{}
	}}
	rules.Classify(answered(200, envelope("Busy", "", "t")))
}

// The larger of what Parse found and what the header says.
func TestParsedWaitBesideTheHeader(t *testing.T) {
	for _, tt := range []struct{ parsed, want time.Duration }{
		{0, 10 * time.Second},
		{5 * time.Second, 10 * time.Second},
		{time.Minute, time.Minute},
	} {
		rules := &steadyhttp.Rules{Parse: func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{RetryAfter: tt.parsed} }}
		if got := rules.Classify(answered(429, "", "Retry-After: 10")).RetryAfter; got != tt.want {
			t.Errorf("parsed %v: %v, want %v", tt.parsed, got, tt.want)
		}
	}
}

// Errors are classified by type, at any depth of wrapping.
func TestClassOfError(t *testing.T) {
	dns := func(change func(*net.DNSError)) error {
		e := &net.DNSError{Err: "lookup failed", Name: "api.example"}
		change(e)
		return &net.OpError{Op: "dial", Net: "tcp", Err: e}
	}
	errno := func(op string, n syscall.Errno) error {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, n)}
	}
	permanent := map[string]error{
		"unknown authority":          x509.UnknownAuthorityError{},
		"unknown authority, as sent": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"wrong host":                 x509.HostnameError{Certificate: &x509.Certificate{}, Host: "api.example"},
		"wrong host, as sent":        &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}},
		"expired":                    x509.CertificateInvalidError{Reason: x509.Expired},
		"expired, as sent":           &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}},
		"no system roots":            x509.SystemRootsError{Err: errors.New("none")},
		"any verification":           &tls.CertificateVerificationError{Err: errors.New("policy")},
		"plain HTTP on a TLS port":   tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake", RecordHeader: [5]byte{'H', 'T', 'T', 'P', '/'}},
		"ECH rejected":               &tls.ECHRejectionError{},
		"no such host":               dns(func(e *net.DNSError) { e.IsNotFound = true }),
		"no such host, not dialling": &net.DNSError{Err: "no such host", IsNotFound: true},
		"refused by an inner gate":   &steadyhttp.Refusal{Err: errors.New("full")},
	}
	transient := map[string]error{
		"DNS temporary":               dns(func(e *net.DNSError) { e.IsTemporary = true }),
		"DNS timeout":                 dns(func(e *net.DNSError) { e.IsTimeout = true }),
		"refused":                     errno("connect", syscall.ECONNREFUSED),
		"unreachable":                 errno("connect", syscall.EHOSTUNREACH),
		"dial timeout":                &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded},
		"reset":                       errno("read", syscall.ECONNRESET),
		"broken pipe":                 errno("write", syscall.EPIPE),
		"closed connection":           net.ErrClosed,
		"EOF":                         io.EOF,
		"unexpected EOF":              io.ErrUnexpectedEOF,
		"timeout":                     os.ErrDeadlineExceeded,
		"another's deadline":          context.DeadlineExceeded,
		"another's cancellation":      context.Canceled,
		"ours, with a text that lies": errors.New("x509: certificate signed by unknown authority"),
		"no such host, by text only":  errors.New("dial tcp: lookup api.example: no such host"),
		"unknown":                     errors.New("something else"),
		"proxy's 502":                 errors.New("Bad Gateway"),
	}
	for want, errs := range map[steadyhttp.Class]map[string]error{steadyhttp.Permanent: permanent, steadyhttp.Transient: transient} {
		for name, err := range errs {
			for depth := range 4 {
				if got := (&steadyhttp.Rules{}).Classify(failed(t, err)); got != (steadyhttp.Verdict{Class: want}) {
					t.Errorf("%s, wrapped %d times: %+v, want %v", name, depth, got, want)
				}
				err = []error{
					&url.Error{Op: "Get", URL: "http://api.example/", Err: err},
					fmt.Errorf("attempt: %w", err),
					errors.Join(errors.New("other"), err),
				}[depth%3]
			}
		}
	}
}

// net/http tells of these by text only, so the request is looked at.
func TestClassOfUnsendableRequest(t *testing.T) {
	anyError := errors.New("net/http: invalid header field name")
	tests := map[string]struct {
		change func(*http.Request)
		want   steadyhttp.Class
	}{
		"good":                  {func(*http.Request) {}, steadyhttp.Transient},
		"https":                 {func(r *http.Request) { r.URL.Scheme = "https" }, steadyhttp.Transient},
		"no method is GET":      {func(r *http.Request) { r.Method = "" }, steadyhttp.Transient},
		"a method of its own":   {func(r *http.Request) { r.Method = "M-SEARCH" }, steadyhttp.Transient},
		"tab in a value":        {func(r *http.Request) { r.Header.Set("A", "b\tc") }, steadyhttp.Transient},
		"UTF-8 in a value":      {func(r *http.Request) { r.Header.Set("A", "é") }, steadyhttp.Transient},
		"empty value":           {func(r *http.Request) { r.Header.Set("A", "") }, steadyhttp.Transient},
		"scheme":                {func(r *http.Request) { r.URL.Scheme = "ftp" }, steadyhttp.Permanent},
		"no scheme":             {func(r *http.Request) { r.URL.Scheme = "" }, steadyhttp.Permanent},
		"no host":               {func(r *http.Request) { r.URL.Host = "" }, steadyhttp.Permanent},
		"no URL":                {func(r *http.Request) { r.URL = nil }, steadyhttp.Permanent},
		"space in the method":   {func(r *http.Request) { r.Method = "GE T" }, steadyhttp.Permanent},
		"newline in the method": {func(r *http.Request) { r.Method = "GET\n" }, steadyhttp.Permanent},
		"UTF-8 in the method":   {func(r *http.Request) { r.Method = "GÉT" }, steadyhttp.Permanent},
		"invalid UTF-8 method":  {func(r *http.Request) { r.Method = "G\xffT" }, steadyhttp.Permanent},
		"space in a name":       {func(r *http.Request) { r.Header["A B"] = []string{"c"} }, steadyhttp.Permanent},
		"colon in a name":       {func(r *http.Request) { r.Header["A:"] = []string{"c"} }, steadyhttp.Permanent},
		"no name":               {func(r *http.Request) { r.Header[""] = []string{"c"} }, steadyhttp.Permanent},
		"newline in a value":    {func(r *http.Request) { r.Header.Set("A", "b\nc") }, steadyhttp.Permanent},
		"NUL in a value":        {func(r *http.Request) { r.Header.Set("A", "b\x00") }, steadyhttp.Permanent},
		"DEL in a value":        {func(r *http.Request) { r.Header.Set("A", "b\x7f") }, steadyhttp.Permanent},
		"second value":          {func(r *http.Request) { r.Header["A"] = []string{"fine", "b\r"} }, steadyhttp.Permanent},
	}
	for name, tt := range tests {
		a := failed(t, anyError)
		tt.change(a.Request)
		if got := (&steadyhttp.Rules{}).Classify(a).Class; got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// What each error is worth in attempts, and that it comes out as its own type.
func TestErrorsByAttempts(t *testing.T) {
	certificate := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	scheme := tls.RecordHeaderError{Msg: "not TLS", RecordHeader: [5]byte{'H', 'T', 'T', 'P', '/'}}
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"certificate":   {certificate, 1},
		"plain HTTP":    {scheme, 1},
		"no such host":  {&net.DNSError{Err: "no such host", IsNotFound: true}, 1},
		"DNS temporary": {&net.DNSError{Err: "try again", IsTemporary: true}, 4},
		"reset":         {errReset, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(failsWith(tt.err))
				_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
				if base.sent() != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%d attempts, want %d; %v", base.sent(), tt.want, err)
				}
				// http.Client asserts this one, unwrapped. Every other is an *Error.
				if _, bare := tt.err.(tls.RecordHeaderError); bare != (err == tt.err) {
					t.Errorf("the error became a %T", err)
				}
			})
		})
	}
}

// http.Client makes ErrSchemeMismatch of an error that it must find unwrapped.
func TestSchemeMismatchIsStillToldByTheClient(t *testing.T) {
	base := newScript(failsWith(tls.RecordHeaderError{Msg: "not TLS", RecordHeader: [5]byte{'H', 'T', 'T', 'P', '/'}}))
	_, err := (&http.Client{Transport: &steadyhttp.Transport{Base: base}}).Do(newRequest(t, "GET", ""))
	if !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("got %v", err)
	}
}

func TestRulesValidate(t *testing.T) {
	tests := []struct {
		name  string
		rules steadyhttp.Rules
		want  string // in the error; "": none
	}{
		{"zero", steadyhttp.Rules{}, ""},
		{"good", steadyhttp.Rules{
			ByCode:   map[string]steadyhttp.Class{"Busy": steadyhttp.Transient, "x": steadyhttp.Unauthorized},
			ByStatus: map[int]steadyhttp.Class{200: steadyhttp.Success, 599: steadyhttp.Permanent, 429: steadyhttp.Throttled},
		}, ""},
		{"empty code", steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"": steadyhttp.Permanent}}, "empty code"},
		{"code without a class", steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Busy": 0}}, `ByCode["Busy"] is unclassified`},
		{"code with a class that is none", steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"Busy": 9}}, `ByCode["Busy"] is Class(9)`},
		{"status too small", steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{199: steadyhttp.Success}}, "ByStatus[199]"},
		{"status too large", steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{600: steadyhttp.Success}}, "ByStatus[600]"},
		{"status without a class", steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{500: 0}}, "ByStatus[500] is unclassified"},
		{"429 as something else", steadyhttp.Rules{ByStatus: map[int]steadyhttp.Class{429: steadyhttp.Permanent}}, "ByStatus[429] is permanent"},
		{"the first in order", steadyhttp.Rules{ByCode: map[string]steadyhttp.Class{"b": 0, "a": 0, "c": 9}}, `ByCode["a"]`},
	}
	for _, tt := range tests {
		err := tt.rules.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// A class that does not exist ends the call with an error that names the answer and what to do, and closes the answer.
func TestClassThatDoesNotExist(t *testing.T) {
	for name, class := range map[string]steadyhttp.Class{"Class(7)": 7, "Class(6)": 6} {
		t.Run(name, func(t *testing.T) {
			base := newScript(answers(404, envelope("ResourceNotFound", "m", "t-1")))
			transport := &steadyhttp.Transport{Base: base, Classify: func(a steadyhttp.Attempt) steadyhttp.Verdict {
				v := (&steadyhttp.Rules{}).Classify(a)
				v.Class = class
				return v
			}}
			resp, err := transport.RoundTrip(newRequest(t, "GET", ""))
			if resp != nil || err == nil {
				t.Fatalf("got %v, %v", resp, err)
			}
			for _, want := range []string{name, "404", "ResourceNotFound", "t-1", "Transport.Classify"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not tell %q", err, want)
				}
			}
			if base.sent() != 1 {
				t.Errorf("%d attempts", base.sent())
			}
			base.assertNoLeak(t)
		})
	}
}

// The same for a transport error: it stays findable.
func TestClassThatDoesNotExistKeepsTheError(t *testing.T) {
	transport := &steadyhttp.Transport{
		Base:     newScript(failsWith(errReset)),
		Classify: func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} },
	}
	synctest.Test(t, func(t *testing.T) {
		if _, err := transport.RoundTrip(newRequest(t, "GET", "")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
}

// A base that returns neither is told of by its type, once.
func TestBaseThatReturnsNeither(t *testing.T) {
	attempts := 0
	base := roundTripper(func(*http.Request) (*http.Response, error) { attempts++; return nil, nil })
	_, err := (&steadyhttp.Transport{Base: base}).RoundTrip(newRequest(t, "GET", ""))
	if err == nil || !strings.Contains(err.Error(), "steadyhttp_test.roundTripper") || attempts != 1 {
		t.Errorf("%d attempts, then %v", attempts, err)
	}
}

// A class reads and writes its name, in JSON as in any other text.
func TestClassAsText(t *testing.T) {
	all := []steadyhttp.Class{
		steadyhttp.Unclassified, steadyhttp.Success, steadyhttp.Permanent, steadyhttp.Transient,
		steadyhttp.Throttled, steadyhttp.Unauthorized,
	}
	const want = `["unclassified","success","permanent","transient","throttled","unauthorized"]`
	text, err := json.Marshal(all)
	if err != nil || string(text) != want {
		t.Fatalf("%s, %v", text, err)
	}
	var read []steadyhttp.Class
	if err := json.Unmarshal(text, &read); err != nil || !slices.Equal(read, all) {
		t.Errorf("%v, %v", read, err)
	}
	var rules struct{ ByCode map[string]steadyhttp.Class }
	err = json.Unmarshal([]byte(`{"ByCode":{"Busy":"transient"}}`), &rules)
	if err != nil || rules.ByCode["Busy"] != steadyhttp.Transient {
		t.Errorf("%v, %v", rules, err)
	}
	for _, none := range []steadyhttp.Class{6, 255} {
		if text, err := none.MarshalText(); err == nil {
			t.Errorf("%d is written as %q", none, text)
		}
	}
	for _, none := range []string{"", "Transient", "transient ", "7", "Class(6)", "\x1b[31m"} {
		class := steadyhttp.Throttled
		err := class.UnmarshalText([]byte(none))
		if err == nil || class != steadyhttp.Throttled ||
			!strings.Contains(err.Error(), "use one of unclassified, success, ") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v, %v", none, class, err)
		}
	}
}

// What a Classify or a Parse leaves zero is filled in, field by field, from the default; what it says
// stays.
func TestVerdictsAreMergedByField(t *testing.T) {
	const id = "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"
	standard := steadyhttp.Verdict{
		Class: steadyhttp.Transient, Code: "Busy", Message: "later", TrackingID: id, RetryAfter: 7 * time.Second,
	}
	full := steadyhttp.Verdict{Class: steadyhttp.Permanent, Code: "C", Message: "M", TrackingID: "T"}
	for name, tt := range map[string]struct{ said, want steadyhttp.Verdict }{
		"nothing": {steadyhttp.Verdict{}, standard},
		"a class": {steadyhttp.Verdict{Class: steadyhttp.Throttled}, steadyhttp.Verdict{
			Class: steadyhttp.Throttled, Code: "Busy", Message: "later", TrackingID: id, RetryAfter: 7 * time.Second}},
		"a class that has no wait": {steadyhttp.Verdict{Class: steadyhttp.Permanent}, steadyhttp.Verdict{
			Class: steadyhttp.Permanent, Code: "Busy", Message: "later", TrackingID: id}},
		"a code": {steadyhttp.Verdict{Code: "C"}, steadyhttp.Verdict{
			Class: steadyhttp.Transient, Code: "C", Message: "later", TrackingID: id, RetryAfter: 7 * time.Second}},
		"a message": {steadyhttp.Verdict{Message: "M"}, steadyhttp.Verdict{
			Class: steadyhttp.Transient, Code: "Busy", Message: "M", TrackingID: id, RetryAfter: 7 * time.Second}},
		"an ID": {steadyhttp.Verdict{TrackingID: "T"}, steadyhttp.Verdict{
			Class: steadyhttp.Transient, Code: "Busy", Message: "later", TrackingID: "T", RetryAfter: 7 * time.Second}},
		"a longer wait": {steadyhttp.Verdict{RetryAfter: time.Minute}, steadyhttp.Verdict{
			Class: steadyhttp.Transient, Code: "Busy", Message: "later", TrackingID: id, RetryAfter: time.Minute}},
		"all but a wait": {full, full},
	} {
		say := func(steadyhttp.Attempt) steadyhttp.Verdict { return tt.said }
		answer := answers(503, envelope("Busy", "later", id), "Retry-After: 7")
		for way, tr := range map[string]*steadyhttp.Transport{
			"Classify": {Classify: say},
			"Parse":    {Classify: (&steadyhttp.Rules{Parse: say}).Classify},
		} {
			tr.Base, tr.Policy.MaxAttempts = newScript(answer), 1
			resp, _ := do(t, tr, newRequest(t, "GET", ""))
			if a, ok := steadyhttp.AttemptOf(resp); !ok || a.Verdict != tt.want {
				t.Errorf("%s says %s: %+v, want %+v", way, name, a.Verdict, tt.want)
			}
		}
	}
	nothing := func(steadyhttp.Attempt) steadyhttp.Verdict { return steadyhttp.Verdict{} }
	zero := &steadyhttp.Transport{Base: newScript(answers(200, "done")), Classify: nothing}
	if resp, body := do(t, zero, newRequest(t, "POST", "order")); resp.StatusCode != 200 || body != "done" {
		t.Errorf("a 200 of which Classify says nothing: %d %q", resp.StatusCode, body)
	}
}

// A fault of the kind that stays is not tried again, and one that may pass is only where that is safe, or where
// it never left.
func TestAttemptsPerTransportError(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		get, post int
	}{
		"untrusted":         {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, 1, 1},
		"wrong host":        {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, 1, 1},
		"expired":           {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: &x509.Certificate{}}}, 1, 1},
		"no roots":          {x509.SystemRootsError{}, 1, 1},
		"no TLS":            {tls.RecordHeaderError{}, 1, 1},
		"untrusted in dial": {&net.OpError{Op: "dial", Err: x509.UnknownAuthorityError{}}, 1, 1},
		"no such host":      {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, 1, 1},
		"DNS temporary":     {&net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, 4, 4},
		"DNS timeout":       {&net.DNSError{IsTimeout: true}, 4, 4},
		"refused":           {trRefused, 4, 4},
		"proxy refused":     {&net.OpError{Op: "proxyconnect", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, 4, 4},
		"dial timeout":      {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, 4, 4},
		"reset":             {trReset, 4, 1},
		"broken pipe (R33)": {&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, 4, 1},
		"unexpected EOF":    {io.ErrUnexpectedEOF, 4, 1},
		"malformed answer":  {errors.New("malformed HTTP response"), 2, 1},
		"its own deadline":  {context.DeadlineExceeded, 4, 1},
		// A base that retries on its own may have sent the request before the dial that failed.
		"dial of a client of its own": {&url.Error{Op: "Post", URL: "x", Err: trRefused}, 4, 1},
	} {
		for method, want := range map[string]int{"GET": test.get, "POST": test.post} {
			t.Run(name+" "+method, func(t *testing.T) {
				base := newScript(failsWith(test.err))
				body := ""
				if method == "POST" {
					body = "content"
				}
				resp, err := (&steadyhttp.Transport{Base: base, Policy: atOnce()}).RoundTrip(newRequest(t, method, body))
				if resp != nil || err == nil {
					t.Fatalf("got %v, %v", resp, err)
				}
				if base.sent() != want {
					t.Errorf("sent %d times, want %d", base.sent(), want)
				}
			})
		}
	}
}

// An answer that says no is final, whatever the method.
func TestOtherClientErrorsAreFinal(t *testing.T) {
	statuses := []int{501, 505}
	for status := 400; status < 440 && len(statuses) < 40; status++ {
		if status != 408 && status != 429 {
			statuses = append(statuses, status)
		}
	}
	for _, status := range statuses {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"} {
			base := newScript(answers(status, "kept"))
			if resp, body := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, method, "")); resp.StatusCode != status || body != "kept" {
				t.Errorf("%s: got %d %q, want %d", method, resp.StatusCode, body, status)
			}
			if base.sent() != 1 {
				t.Errorf("%s: %d was tried %d times", method, status, base.sent())
			}
		}
	}
}

// Below 400 there is nothing to repair.
func TestAnswersBelow400AreFinal(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308} {
		base := newScript(answers(status, "", "Retry-After: 10", "Location: /elsewhere"))
		if resp, _ := do(t, &steadyhttp.Transport{Base: base}, newRequest(t, "GET", "")); resp.StatusCode != status || base.sent() != 1 {
			t.Errorf("%d was tried %d times", status, base.sent())
		}
	}
}
