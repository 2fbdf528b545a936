package stripe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v84"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestStripe creates a customer, with the Idempotency-Key that the SDK gives each call, and reads
// one.
func TestStripe(t *testing.T) {
	sdk := bed.SDK{
		Answer: "cus_1", Busy: "lock_timeout", Missing: "resource_missing",
		Serve: serve, Typed: typed, Varies: []string{"Idempotency-Key"},
		// Of errors in Stripe's JSON its own retries take but a lock's 429: those of 5xx are for
		// what has no such body.
		Own: func(statuses []int, _ bool) int {
			if len(statuses) > 0 && statuses[0] == http.StatusTooManyRequests {
				return 2
			}
			return 1
		},
		Both: bed.Attempts,
	}
	description := strings.Repeat("Kundin ", 20_000)

	create := sdk
	create.Name = "Customers.Create"
	create.Body = []byte(url.Values{"description": {description}}.Encode())
	create.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		customer, err := client(base, url, own).V1Customers.
			Create(ctx, &stripe.CustomerCreateParams{Description: &description})
		return id(customer, err)
	}

	read := sdk
	read.Name = "Customers.Retrieve"
	read.Call = func(_ *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool) (string, error) {
		return id(client(base, url, own).V1Customers.Retrieve(ctx, "cus_1", nil))
	}

	gateway := read
	gateway.Name = "Customers.Retrieve behind a gateway that fails"
	gateway.Busy, gateway.Missing = "", ""
	gateway.Serve = func(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
		if f == nil {
			serve(w, r, nil)
			return
		}
		w.WriteHeader(f.Status)
		fmt.Fprintf(w, "<html>%s</html>", f.Message)
	}
	gateway.Typed = func(err error) (status int, code, message string) {
		if err != nil {
			_, text, _ := strings.Cut(err.Error(), "response status: ")
			fmt.Sscan(text, &status)
		}
		return status, "", ""
	}
	gateway.Own, gateway.Both = nil, bed.Attempts*bed.Attempts
	bed.Run(t, create, read, gateway)
}

func id(customer *stripe.Customer, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return customer.ID, nil
}

func client(base http.RoundTripper, url string, own bool) *stripe.Client {
	config := &stripe.BackendConfig{
		HTTPClient: &http.Client{Transport: base}, URL: &url,
		MaxNetworkRetries: stripe.Int64(0), LeveledLogger: &stripe.LeveledLogger{},
	}
	if own {
		config.MaxNetworkRetries = stripe.Int64(bed.Attempts - 1)
	}
	backends := stripe.NewBackendsWithConfig(config)
	backends.API.(*stripe.BackendImplementation).SetNetworkRetriesSleep(false)
	return stripe.NewClient("sk_test", stripe.WithBackends(backends))
}

func serve(w http.ResponseWriter, _ *http.Request, f *bed.Failure) {
	w.Header().Set("Request-Id", "req_1")
	if f == nil {
		io.WriteString(w, `{"id":"cus_1","object":"customer"}`)
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{
		"type": "api_error", "code": f.Code, "message": f.Message,
	}})
}

func typed(err error) (status int, code, message string) {
	e, ok := errors.AsType[*stripe.Error](err)
	if ok && e.RequestID == "req_1" {
		return e.HTTPStatusCode, string(e.Code), e.Msg
	}
	return 0, "", ""
}

// The attempts of one call have one key, and the next call has another.
func TestStripeKeys(t *testing.T) {
	var keys []string
	server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		serve(w, r, nil)
	})
	c := client(&steadyhttp.Transport{}, server.URL, false)
	for range 2 {
		if _, err := c.V1Customers.Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(keys) != 3 || keys[0] == "" || keys[0] != keys[1] || keys[1] == keys[2] {
		t.Errorf("the keys are %q", keys)
	}
}

// Stripe-Should-Retry is for a Classify to heed. The SDK's own retries do so only where the answer
// has no error in JSON.
func TestStripeShouldRetry(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   int
		header   string
		classify func(steadyhttp.Attempt) steadyhttp.Verdict
		own      bool
		want     int
	}{
		{"a 409 that says to, by default", 409, "true", nil, false, 1},
		{"a 409 that says to, and its own retries", 409, "true", nil, true, 1},
		{"a 409 that says to, with Classify", 409, "true", shouldRetry, false, 2},
		{"a 500 that says not to, by default", 500, "false", nil, false, 2},
		{"a 500 that says not to, with Classify", 500, "false", shouldRetry, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			server := bed.Start(t, false, func(w http.ResponseWriter, r *http.Request) {
				if n++; n > 1 {
					serve(w, r, nil)
					return
				}
				w.Header().Set("Stripe-Should-Retry", c.header)
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: c.status})
			})
			var rt http.RoundTripper = &steadyhttp.Transport{Classify: c.classify}
			if c.own {
				rt = http.DefaultTransport
			}
			client(rt, server.URL, c.own).V1Customers.Create(t.Context(), nil)
			if n != c.want {
				t.Errorf("%d attempts, want %d", n, c.want)
			}
		})
	}
}

func shouldRetry(a steadyhttp.Attempt) (v steadyhttp.Verdict) {
	if a.Response == nil {
		return v
	}
	switch a.Response.Header.Get("Stripe-Should-Retry") {
	case "true":
		v.Class = steadyhttp.Transient
	case "false":
		v.Class = steadyhttp.Permanent
	}
	return v
}

// A download comes as it is sent.
func TestStripeStream(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		got := make(chan struct{}, 16)
		parts := []string{"%PDF", "-1.4", "%%EOF"}
		server := bed.Start(t, h2, func(w http.ResponseWriter, _ *http.Request) {
			bed.Lockstep(w, got, parts...)
		})
		stream, err := client(&steadyhttp.Transport{Base: server.Client().Transport}, server.URL, false).
			V1Quotes.PDF(t.Context(), "qt_1", nil)
		if err != nil {
			t.Fatal(err)
		}
		body := stream.LastResponse.Body
		defer body.Close()
		read := bed.Pieces(t, body, got)
		if !slices.Equal(read, parts) {
			t.Errorf("read %q", read)
		}
	})
}
