package compat

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	kiota "github.com/microsoft/kiota-abstractions-go"
	"github.com/microsoft/kiota-abstractions-go/authentication"
	"github.com/microsoft/kiota-abstractions-go/serialization"
	nethttplibrary "github.com/microsoft/kiota-http-go"
	jsonserialization "github.com/microsoft/kiota-serialization-json-go"

	"github.com/steadyhttp/steadyhttp"
)

// attempts is how often each of them sends at the most, ours and their own.
const attempts = 4

// failure is what a service answers in place of a success.
type failure struct {
	status  int
	code    string
	after   string // Retry-After
	message string
}

// sdk is an SDK, unmodified, that sends one body.
type sdk struct {
	name      string
	size      int
	maxBuffer int64 // 0: the default does
	// Its POST is idempotent by nobody's word but the caller's.
	idempotent func(*http.Request) bool

	// send sends over base, with the SDK's own retries in place of ours if own.
	send func(t *testing.T, base http.RoundTripper, url string, body []byte, own bool) error

	// decoded returns what raw says.
	decoded func(h http.Header, raw []byte) ([]byte, error)
	busy    string // codes of a 503 and a 404
	missing string
	write   func(w http.ResponseWriter, f *failure) // nil: success
	typed   func(err error) (status int, code, message string)
}

func sdks() []sdk {
	always := func(*http.Request) bool { return true }
	graph := sdk{
		decoded: decoded, busy: "serviceNotAvailable", missing: "itemNotFound",
		write: writeGraph, typed: graphError, idempotent: always,
	}
	s3 := sdk{
		send: sendS3, decoded: decoded, busy: "SlowDown", missing: "NoSuchBucket",
		write: writeS3, typed: s3Error,
	}
	blob := sdk{
		send: sendBlob, decoded: decoded, busy: string(bloberror.ServerBusy),
		missing: string(bloberror.BlobNotFound), write: writeBlob, typed: blobError,
	}
	list := []sdk{graph, graph, s3, s3, blob, blob}
	list[0].name, list[0].size, list[0].send = "kiota POST", 100<<10, sendGraph(true)
	// Not compressed, its length is not known either.
	list[1].name, list[1].size, list[1].send = "kiota POST, plain", 300<<10, sendGraph(false)
	list[1].maxBuffer = 1 << 20
	list[2].name, list[2].size = "S3 PUT", 100<<10
	list[3].name, list[3].size, list[3].maxBuffer = "S3 PUT, large", 300<<10, 1<<20
	list[4].name, list[4].size = "azblob Upload", 100<<10
	list[5].name, list[5].size = "azblob Upload, large", 1<<20
	return list
}

// depot answers uploads with its failures one after the other, and then with success; forever
// repeats the last failure.
type depot struct {
	*httptest.Server
	sdk     *sdk
	forever bool
	early   bool // failures are answered before the body is read

	mu       sync.Mutex // guards what follows
	failures []failure
	got      []upload
}

type upload struct {
	at     time.Time
	header http.Header
	raw    []byte
	err    error
}

func newDepot(t *testing.T, s *sdk, h2 bool, failures ...failure) *depot {
	d := &depot{sdk: s, failures: failures}
	d.Server = httptest.NewUnstartedServer(d)
	if h2 {
		d.EnableHTTP2 = true
		d.StartTLS()
	} else {
		d.Start()
	}
	t.Cleanup(d.Close)
	return d
}

func (d *depot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u := upload{at: time.Now(), header: r.Header.Clone()}
	d.mu.Lock()
	var f *failure
	if len(d.failures) > 0 {
		first := d.failures[0]
		f = &first
		if !d.forever {
			d.failures = d.failures[1:]
		}
	}
	d.mu.Unlock()
	if f == nil || !d.early {
		u.raw, u.err = io.ReadAll(r.Body)
	}
	d.mu.Lock()
	d.got = append(d.got, u)
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/xml")
	if f != nil && f.after != "" {
		w.Header().Set("Retry-After", f.after)
	}
	d.sdk.write(w, f)
}

// uploads returns what has come, and checks it byte for byte but for early answers.
func (d *depot) uploads(t *testing.T, body []byte) []upload {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, u := range d.got {
		if d.early && i < len(d.got)-1 {
			continue
		}
		got, err := d.sdk.decoded(u.header, u.raw)
		if err = cmp.Or(u.err, err); err != nil || !bytes.Equal(got, body) {
			t.Errorf("attempt %d has a body of %d bytes that is not the one of %d: %v",
				i+1, len(got), len(body), err)
		}
		if !d.early && !bytes.Equal(u.raw, d.got[0].raw) {
			t.Errorf("attempt %d is another than the first on the wire", i+1)
		}
	}
	return d.got
}

// ours is a Transport over the server's own, as the documentation has it.
func (d *depot) ours() *steadyhttp.Transport {
	p := atOnce()
	p.MaxAttempts = attempts
	p.MaxBuffer, p.Idempotent = d.sdk.maxBuffer, d.sdk.idempotent
	return &steadyhttp.Transport{Base: d.Client().Transport, Policy: p}
}

// random is content that no compression makes small.
func random(size int) []byte {
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(body)
	return body
}

// everywhere runs a test for each SDK over HTTP/1.1 and HTTP/2, all at once: t.Parallel would let
// no more wait at a time than there are processors.
func everywhere(t *testing.T, test func(t *testing.T, s *sdk, h2 bool, body []byte)) {
	var group sync.WaitGroup
	defer group.Wait()
	for _, s := range sdks() {
		body := random(s.size)
		for _, wire := range []string{"HTTP/1.1", "HTTP/2"} {
			group.Go(func() {
				t.Run(s.name+"/"+wire, func(t *testing.T) { test(t, &s, wire == "HTTP/2", body) })
			})
		}
	}
}

// Without its own retries, each SDK makes as many attempts over a Transport as with them, and the
// body of each is the one that was given, byte for byte.
func TestSDKsRetryAsOften(t *testing.T) {
	const none = "0" // kiota waits for seconds where nothing is said
	for name, c := range map[string]struct {
		statuses []int
		after    string
		forever  bool
		want     int
	}{
		"503, 503, success":       {statuses: []int{503, 503}, after: none, want: 3},
		"503 for ever":            {statuses: []int{503}, after: none, forever: true, want: attempts},
		"429 with a time":         {statuses: []int{429}, after: "1", want: 2},
		"503, 504, 429, success":  {statuses: []int{503, 504, 429}, after: none, want: 4},
		"503 with a time":         {statuses: []int{503}, after: "1", want: 2},
		"success at the first go": {want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, s *sdk, h2 bool, body []byte) {
				var failures []failure
				for _, status := range c.statuses {
					failures = append(failures, failure{
						status: status, code: s.busy, after: c.after, message: "busy",
					})
				}
				theirs := newDepot(t, s, h2, failures...)
				theirs.forever = c.forever
				mine := newDepot(t, s, h2, failures...)
				mine.forever = c.forever
				var theirErr error
				var group sync.WaitGroup
				group.Go(func() {
					theirErr = s.send(t, theirs.Client().Transport, theirs.URL, body, true)
				})
				err := s.send(t, mine.ours(), mine.URL, body, false)
				group.Wait()
				got := mine.uploads(t, body)
				// Their bodies are theirs to get right: kiota's compressed ones are not.
				theirs.mu.Lock()
				own := len(theirs.got)
				theirs.mu.Unlock()
				if len(got) != own || own != c.want {
					t.Errorf("%d attempts, with the SDK's own retries %d, want %d",
						len(got), own, c.want)
				}
				if (err != nil) != c.forever || (theirErr != nil) != c.forever {
					t.Fatalf("got %v, with its own retries %v", err, theirErr)
				}
				if c.forever {
					status, code, _ := s.typed(err)
					theirStatus, theirCode, _ := s.typed(theirErr)
					same := status == theirStatus && code == theirCode
					if status != 503 || code != s.busy || !same {
						t.Errorf("the error is %d %q, theirs %d %q: %v",
							status, code, theirStatus, theirCode, err)
					}
				}
				if c.after == "1" && len(got) == 2 {
					if waited := got[1].at.Sub(got[0].at); waited < time.Second {
						t.Errorf("waited %v, and was asked for a second", waited)
					}
				}
			})
		})
	}
}

// An error answer reaches the SDK's own error whole, also if it is longer than what is read ahead.
func TestSDKsKeepTheirErrors(t *testing.T) {
	everywhere(t, func(t *testing.T, s *sdk, h2 bool, body []byte) {
		for _, status := range []int{404, 503} {
			code := map[int]string{404: s.missing, 503: s.busy}[status]
			for _, message := range []string{"short", strings.Repeat("long ", 16<<10)} {
				d := newDepot(t, s, h2, failure{
					status: status, code: code, message: message,
				})
				d.forever = true
				err := s.send(t, d.ours(), d.URL, body, false)
				gotStatus, gotCode, gotMessage := s.typed(err)
				if gotStatus != status || gotCode != code || gotMessage != message {
					t.Errorf("got %T of %d %q with a message of %d bytes, want %d %q and %d",
						err, gotStatus, gotCode, len(gotMessage), status, code, len(message))
				}
				want := 1
				if status == 503 {
					want = attempts
				}
				if got := d.uploads(t, body); len(got) != want {
					t.Errorf("%d attempts after a %d, want %d", len(got), status, want)
				}
			}
		}
	})
}

// A server that refuses before it has read the body gets it whole with the next attempt, though the
// one before may still be reading when the SDK's body is rewound.
func TestSDKsBodyAfterAnEarlyAnswer(t *testing.T) {
	everywhere(t, func(t *testing.T, s *sdk, h2 bool, body []byte) {
		busy := failure{status: 503, code: s.busy, message: "busy"}
		d := newDepot(t, s, h2, busy, busy)
		d.early = true
		if err := s.send(t, d.ours(), d.URL, body, false); err != nil {
			t.Fatal(err)
		}
		if got := d.uploads(t, body); len(got) != 3 {
			t.Errorf("%d attempts, want 3", len(got))
		}
	})
}

// decoded takes off the encodings that SDKs put on by themselves.
func decoded(h http.Header, raw []byte) ([]byte, error) {
	body := io.Reader(bytes.NewReader(raw))
	switch encoding := h.Get("Content-Encoding"); {
	case encoding == "gzip":
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = unzipped
	case strings.Contains(encoding, "aws-chunked"):
		body = httputil.NewChunkedReader(body)
	}
	return io.ReadAll(body)
}

func sendGraph(compress bool) func(*testing.T, http.RoundTripper, string, []byte, bool) error {
	newAdapter := nethttplibrary.
		NewNetHttpRequestAdapterWithParseNodeFactoryAndSerializationWriterFactoryAndHttpClient
	return func(t *testing.T, base http.RoundTripper, url string, body []byte, own bool) error {
		options := []kiota.RequestOption{nethttplibrary.NewCompressionOptionsReference(compress)}
		if !own {
			never := func(time.Duration, int, *http.Request, *http.Response) bool { return false }
			options = append(options, &nethttplibrary.RetryHandlerOptions{ShouldRetry: never})
		}
		middlewares, err := nethttplibrary.GetDefaultMiddlewaresWithOptions(options...)
		if err != nil {
			return err
		}
		client := &http.Client{
			Transport: nethttplibrary.NewCustomTransportWithParentTransport(base, middlewares...),
		}
		adapter, err := newAdapter(
			&authentication.AnonymousAuthenticationProvider{}, jsonserialization.NewJsonParseNodeFactory(),
			jsonserialization.NewJsonSerializationWriterFactory(), client)
		if err != nil {
			return err
		}
		adapter.SetBaseUrl(url)
		request := kiota.NewRequestInformationWithMethodAndUrlTemplateAndPathParameters(
			kiota.POST, "{+baseurl}/v1.0/me/messages", map[string]string{})
		request.SetStreamContentAndContentType(body, "application/json")
		_, err = adapter.Send(t.Context(), request, newGraphAnswer,
			kiota.ErrorMappings{"XXX": newGraphAnswer})
		return err
	}
}

// graphAnswer is what a generator makes of a model and of an error, in little.
type graphAnswer struct {
	kiota.ApiError
	code, message string
}

func newGraphAnswer(serialization.ParseNode) (serialization.Parsable, error) {
	return &graphAnswer{ApiError: *kiota.NewApiError()}, nil
}

func (a *graphAnswer) Serialize(serialization.SerializationWriter) error { return nil }

func (a *graphAnswer) GetFieldDeserializers() map[string]func(serialization.ParseNode) error {
	text := func(to *string) func(serialization.ParseNode) error {
		return func(n serialization.ParseNode) error {
			s, err := n.GetStringValue()
			if s != nil {
				*to = *s
			}
			return err
		}
	}
	return map[string]func(serialization.ParseNode) error{
		"code": text(&a.code), "message": text(&a.message),
	}
}

func writeGraph(w http.ResponseWriter, f *failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"code":"created","message":"m"}`)
		return
	}
	w.WriteHeader(f.status)
	fmt.Fprintf(w, `{"code":%q,"message":%q}`, f.code, f.message)
}

func graphError(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*graphAnswer](err); ok {
		return e.GetStatusCode(), e.code, e.message
	}
	return 0, "", ""
}

func sendS3(t *testing.T, base http.RoundTripper, url string, body []byte, own bool) error {
	options := s3.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), UsePathStyle: true,
		HTTPClient: &http.Client{Transport: base}, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
	}
	if own {
		options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts // 3 otherwise
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) {
				return 0, nil
			})
		})
	}
	_, err := s3.New(options).PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("key"), Body: bytes.NewReader(body),
	})
	return err
}

func writeS3(w http.ResponseWriter, f *failure) {
	w.Header().Set("X-Amz-Request-Id", "REQUEST")
	if f == nil {
		w.Header().Set("Etag", `"e"`)
		return
	}
	w.WriteHeader(f.status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>%s</Message></Error>`, f.code, f.message)
}

func s3Error(err error) (status int, code, message string) {
	type answered interface {
		error
		HTTPStatusCode() int
		ServiceRequestID() string
	}
	answer, ok := errors.AsType[answered](err)
	api, isAPI := errors.AsType[smithy.APIError](err)
	if ok && isAPI && answer.ServiceRequestID() == "REQUEST" {
		return answer.HTTPStatusCode(), api.ErrorCode(), api.ErrorMessage()
	}
	return 0, "", ""
}

func sendBlob(t *testing.T, base http.RoundTripper, url string, body []byte, own bool) error {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	options := blockblob.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: base}, Retry: policy.RetryOptions{MaxRetries: -1},
	}}
	if own {
		options.Retry = policy.RetryOptions{MaxRetries: attempts - 1, RetryDelay: time.Millisecond}
	}
	client, err := blockblob.NewClientWithNoCredential(url+"/container/blob", &options)
	if err != nil {
		return err
	}
	_, err = client.Upload(t.Context(), file, nil)
	return err
}

func writeBlob(w http.ResponseWriter, f *failure) {
	w.Header().Set("X-Ms-Request-Id", "43f4cb08-8fac-4b65-9db1-745c2ae65f3a")
	if f == nil {
		w.WriteHeader(http.StatusCreated)
		return
	}
	w.Header().Set("X-Ms-Error-Code", f.code)
	w.WriteHeader(f.status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`,
		f.code, f.message)
}

func blobError(err error) (status int, code, message string) {
	e, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || !bloberror.HasCode(err, bloberror.Code(e.ErrorCode)) {
		return 0, "", ""
	}
	body, err := io.ReadAll(e.RawResponse.Body)
	if err != nil {
		return 0, "", ""
	}
	_, rest, _ := strings.Cut(string(body), "<Message>")
	message, _, _ = strings.Cut(rest, "</Message></Error>")
	return e.StatusCode, e.ErrorCode, message
}
