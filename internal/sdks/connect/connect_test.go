package connect_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

type (
	text     = wrapperspb.StringValue
	client   = connect.Client[text, text]
	received = connect.Response[text]
)

const procedure = "/test.v1.Echo/Say"

// TestConnect calls a method: as a POST, which is idempotent by the caller's word alone, plain and
// compressed, and as a GET.
func TestConnect(t *testing.T) {
	question := wrapperspb.String(strings.Repeat("Frage ", 20_000))
	body, err := proto.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	sdk := bed.SDK{
		Answer: "answer", Busy: "unavailable", Missing: "not_found",
		Serve: serve, Typed: typed,
		Own: func([]int, bool) int { return 0 }, // it has no retries
	}
	say := func(q *text, options ...connect.ClientOption) func(
		*testing.T, context.Context, http.RoundTripper, string, bool) (string, error) {
		return func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, _ bool) (string, error) {
			answer, err := connect.NewClient[text, text](&http.Client{Transport: base}, url+procedure, options...).
				CallUnary(ctx, connect.NewRequest(q))
			if err != nil {
				return "", err
			}
			return answer.Msg.Value, nil
		}
	}

	post := sdk
	post.Name, post.Body, post.Call = "POST", body, say(question)
	post.Unsafe = true
	post.Edit = bed.Idempotent

	zipped := post
	zipped.Name, zipped.Call = "POST with gzip", say(question, connect.WithSendGzip())
	zipped.Decoded = func(h http.Header, raw []byte) ([]byte, error) {
		if h.Get("Content-Encoding") != "gzip" {
			return nil, errors.New("it is not compressed")
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(unzipped)
	}

	get := sdk
	get.Name = "GET"
	get.Call = say(wrapperspb.String("short"), connect.WithHTTPGet(),
		connect.WithIdempotency(connect.IdempotencyNoSideEffects))
	bed.Run(t, post, zipped, get)
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	if f == nil {
		answer, err := proto.Marshal(wrapperspb.String("answer"))
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/proto")
		w.Write(answer)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]string{"code": f.Code, "message": f.Message})
}

// typed knows the status by the code: the SDK tells no other.
func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return 0, "", ""
	}
	status = map[connect.Code]int{connect.CodeUnavailable: 503, connect.CodeNotFound: 404}[e.Code()]
	return status, e.Code().String(), e.Message()
}

// refusing answers as many calls with a 429 before handler gets them.
func refusing(n int, handler http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n--; n >= 0 {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		handler.ServeHTTP(w, r)
	}
}

// Messages of the server arrive while it keeps the stream open, after a 429 too.
func TestConnectServerStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		words := []string{"be", "cause", "."}
		got := make(chan struct{}, 16)
		handler := connect.NewServerStreamHandler(procedure,
			func(_ context.Context, q *connect.Request[text], stream *connect.ServerStream[text]) error {
				for i, word := range words {
					if err := stream.Send(wrapperspb.String(q.Msg.Value + word)); err != nil {
						return err
					}
					if i < len(words)-1 && !wait(got) {
						return errors.New("nobody gets it")
					}
				}
				return nil
			})
		stream, err := over(bed.Start(t, h2, refusing(1, handler)), 0).
			CallServerStream(t.Context(), connect.NewRequest(wrapperspb.String("")))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		var read []string
		for stream.Receive() {
			read = append(read, stream.Msg().Value)
			got <- struct{}{}
		}
		if err := stream.Err(); err != nil || !slices.Equal(read, words) {
			t.Errorf("read %q: %v", read, err)
		}
	})
}

func wait(got <-chan struct{}) bool {
	select {
	case <-got:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

func over(server *httptest.Server, maxBuffer int64) *client {
	rt := &steadyhttp.Transport{
		Base: server.Client().Transport, Policy: steadyhttp.Policy{MaxBuffer: maxBuffer},
	}
	return connect.NewClient[text, text](&http.Client{Transport: rt}, server.URL+procedure)
}

// Messages of the client leave while it goes on writing, kept for a retry or not. What was refused
// is sent again only if it is kept.
func TestConnectClientStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		for _, maxBuffer := range []int64{0, 1 << 20} {
			got := make(chan struct{}, 16)
			handler := connect.NewClientStreamHandler(procedure,
				func(_ context.Context, stream *connect.ClientStream[text]) (*received, error) {
					var all string
					for stream.Receive() {
						all += stream.Msg().Value
						got <- struct{}{}
					}
					return connect.NewResponse(wrapperspb.String(all)), stream.Err()
				})
			send := func(server *httptest.Server, inStep bool) (string, error) {
				stream := over(server, maxBuffer).CallClientStream(t.Context())
				for _, word := range []string{"be", "cause", "."} {
					if err := stream.Send(wrapperspb.String(word)); err != nil {
						break // what it was is for CloseAndReceive to say
					}
					if inStep && !wait(got) {
						t.Fatalf("MaxBuffer %d: %q is held back", maxBuffer, word)
					}
				}
				answer, err := stream.CloseAndReceive()
				if err != nil {
					return "", err
				}
				return answer.Msg.Value, nil
			}
			if all, err := send(bed.Start(t, h2, handler.ServeHTTP), true); all != "because." || err != nil {
				t.Errorf("MaxBuffer %d: %q, %v", maxBuffer, all, err)
			}
			all, err := send(bed.Start(t, h2, refusing(1, handler)), false)
			switch {
			case maxBuffer == 0 && connect.CodeOf(err) != connect.CodeUnavailable:
				t.Errorf("a refused stream without MaxBuffer: %q, %v", all, err)
			case maxBuffer > 0 && (all != "because." || err != nil):
				t.Errorf("a refused stream with MaxBuffer: %q, %v", all, err)
			}
		}
	})
}

// A stream's own error, and each of gRPC's, comes after a 200: it is the caller's to retry.
func TestConnectErrorsInside(t *testing.T) {
	for name, option := range map[string]connect.ClientOption{
		"connect": connect.WithClientOptions(), "gRPC-Web": connect.WithGRPCWeb(),
	} {
		n := 0
		handler := connect.NewServerStreamHandler(procedure,
			func(context.Context, *connect.Request[text], *connect.ServerStream[text]) error {
				n++
				return connect.NewError(connect.CodeUnavailable, errors.New("busy"))
			})
		server := bed.Start(t, false, handler.ServeHTTP)
		rt := &steadyhttp.Transport{Policy: steadyhttp.Policy{
			Idempotent: func(*http.Request) bool { return true },
		}}
		stream, err := connect.NewClient[text, text](&http.Client{Transport: rt}, server.URL+procedure, option).
			CallServerStream(t.Context(), connect.NewRequest(wrapperspb.String("")))
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
		}
		if err := stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable || n != 1 {
			t.Errorf("%s: %d attempts: %v", name, n, err)
		}
		stream.Close()
	}
}
