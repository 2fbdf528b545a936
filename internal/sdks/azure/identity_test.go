package azure_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// identity is a client secret's token, fetched by a POST.
func identity() bed.SDK {
	return bed.SDK{
		Name: "ClientSecretCredential", Answer: "token",
		Busy: "temporarily_unavailable", Missing: "invalid_tenant",
		Body: []byte("client_credentials id secret https://graph.microsoft.com/.default"),
		Decoded: func(_ http.Header, raw []byte) ([]byte, error) {
			form, err := url.ParseQuery(string(raw))
			return fmt.Appendf(nil, "%s %s %s %s", form.Get("grant_type"), form.Get("client_id"),
				form.Get("client_secret"), strings.Fields(form.Get("scope") + " ")[0]), err
		},
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			return fetch(ctx, options(base, own), url)
		},
		Counts: isToken, Serve: serveIdentity, Typed: typedIdentity,
		Unsafe: true,
		Edit:   func(rt *steadyhttp.Transport) { rt.Policy.Idempotent = isToken },
		Both:   bed.Attempts * bed.Attempts,
		Varies: []string{"Client-Request-Id"},
		TLS:    true, HidesCancel: true,
	}
}

func TestIdentity(t *testing.T) {
	bed.Run(t, identity())
}

// TestIdentityBoundsWaits: a caller without a deadline is given one of 30 s for each request with
// all its retries. What would have to wait longer is not waited for.
func TestIdentityBoundsWaits(t *testing.T) {
	for _, c := range []struct {
		within time.Duration // the caller's own deadline; 0: none
		stop   steadyhttp.Stop
	}{{0, steadyhttp.StopDeadline}, {time.Minute, steadyhttp.StopCancelled}} {
		s := identity()
		v := bed.NewService(t, &s, false, bed.Failure{Status: 429, Code: s.Busy, After: "40"})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if c.within > 0 {
			ctx, cancel = context.WithTimeout(ctx, c.within)
			defer cancel()
		}
		ctx, stop := bed.Stopped(steadyhttp.WithTrace(ctx, &steadyhttp.Trace{
			Waiting: func(context.Context, steadyhttp.Attempt, steadyhttp.Wait) { cancel() },
		}))
		_, err := s.Call(t, ctx, s.Transport(v.Client().Transport, nil), v.URL, false)
		status, _, _ := typedIdentity(err)
		if *stop != c.stop || (status == 429) != (c.stop == steadyhttp.StopDeadline) {
			t.Errorf("within %v: %q, %d: %v; want %q", c.within, *stop, status, err, c.stop)
		}
	}
}

func isToken(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") }

func fetch(ctx context.Context, options policy.ClientOptions, url string) (string, error) {
	options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: url}
	credential, err := azidentity.NewClientSecretCredential("tenant", "id", "secret",
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		return "", err
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{
		Scopes: []string{"https://graph.microsoft.com/.default"},
	})
	return token.Token, err
}

func serveIdentity(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	tenant := "https://" + r.Host + "/tenant"
	var answer any
	switch {
	case f != nil:
		w.WriteHeader(f.Status)
		answer = map[string]any{
			"error": f.Code, "error_description": f.Message,
			"correlation_id": "43f4cb08-8fac-4b65-9db1-745c2ae65f3a",
		}
	case isToken(r):
		answer = map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "token"}
	default:
		answer = map[string]any{
			"issuer": tenant + "/v2.0", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize",
			"token_endpoint": tenant + "/oauth2/v2.0/token",
		}
	}
	json.NewEncoder(w).Encode(answer)
}

func typedIdentity(err error) (status int, code, message string) {
	e, ok := errors.AsType[*azidentity.AuthenticationFailedError](err)
	if !ok || e.RawResponse == nil {
		return 0, "", ""
	}
	body, err := runtime.Payload(e.RawResponse)
	var told struct {
		Code    string `json:"error"`
		Message string `json:"error_description"`
	}
	if err != nil || json.Unmarshal(body, &told) != nil {
		return 0, "", ""
	}
	return e.RawResponse.StatusCode, told.Code, told.Message
}
