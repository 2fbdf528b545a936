package vault_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestVault lists mounts, and writes a secret.
func TestVault(t *testing.T) {
	read := bed.SDK{
		Name: "ListMounts", Answer: "kv", Busy: "Vault is sealed", Missing: "no handler for route",
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			mounts, err := client(t, base, url, own).Sys().ListMountsWithContext(ctx)
			if err != nil {
				return "", err
			}
			return mounts["secret/"].Type, nil
		},
		Serve: serve, Typed: typed, Both: bed.Attempts * bed.Attempts,
	}
	write := read
	write.Name, write.Answer = "KVv2 Put", "7"
	write.Body = []byte(`{"data":{"password":"p"}}`)
	write.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		secret, err := client(t, base, url, own).KVv2("secret").
			Put(ctx, "key", map[string]any{"password": "p"})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(secret.VersionMetadata.Version), nil
	}
	bed.Run(t, read, write)
}

// TestVaultTLSFirst: by the recipe, ConfigureTLS sets Vault's own transport up, which then is ours
// to use.
func TestVaultTLSFirst(t *testing.T) {
	n := 0
	server := bed.Start(t, true, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			serve(w, r, &bed.Failure{Status: 503})
			return
		}
		serve(w, r, nil)
	})
	cfg := api.DefaultConfig()
	cfg.Address, cfg.MaxRetries = server.URL, 0
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: ca}); err != nil {
		t.Fatal(err)
	}
	rt := &steadyhttp.Transport{}
	rt.Base = cfg.HttpClient.Transport
	cfg.HttpClient.Transport = rt
	defer rt.CloseIdleConnections()
	vault, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Sys().ListMountsWithContext(t.Context()); err != nil || n != 2 {
		t.Errorf("%v after %d requests", err, n)
	}
}

// TestVaultTimeoutCoversWaits: what would have to wait longer than Config.Timeout is not waited
// for.
func TestVaultTimeoutCoversWaits(t *testing.T) {
	s := bed.SDK{Serve: serve}
	limited := bed.Failure{Status: 429, Code: "limit", Message: "quota", After: "31"}
	v := bed.NewService(t, &s, false, limited)
	vault := client(t, s.Transport(v.Client().Transport, nil), v.URL, false)
	vault.SetClientTimeout(30 * time.Second)
	ctx, stop := bed.Stopped(t.Context())
	_, err := vault.Sys().ListMountsWithContext(ctx)
	if status, _, _ := typed(err); status != 429 || *stop != steadyhttp.StopDeadline {
		t.Errorf("%q, %v", *stop, err)
	}
}

// TestVaultSettersWantATransportOfItsOwn: which is why docs/sdks.md says to set these before.
func TestVaultSettersWantATransportOfItsOwn(t *testing.T) {
	vault := client(t, &steadyhttp.Transport{}, "http://127.0.0.1:1", false)
	for name, set := range map[string]func(){
		"SetMaxIdleConnections": func() { vault.SetMaxIdleConnections(1) },
		"MaxIdleConnections":    func() { vault.MaxIdleConnections() },
		"SetDisableKeepAlives":  func() { vault.SetDisableKeepAlives(true) },
		"DisableKeepAlives":     func() { vault.DisableKeepAlives() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic: docs/sdks.md says that some setters do", name)
				}
			}()
			set()
		}()
	}
	if err := vault.CloneConfig().ConfigureTLS(&api.TLSConfig{Insecure: true}); err == nil {
		t.Error("ConfigureTLS takes a foreign transport: docs/sdks.md says TLS first")
	}
}

func client(t *testing.T, base http.RoundTripper, url string, own bool) *api.Client {
	config := api.DefaultConfig()
	config.Address = url
	config.HttpClient.Transport = base
	config.MaxRetries = 0
	if own {
		config.MaxRetries = bed.Attempts - 1 // 2 otherwise
		config.MinRetryWait, config.MaxRetryWait = time.Millisecond, time.Millisecond
	}
	made, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	made.SetToken("token")
	return made
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	var answer any
	switch {
	case f != nil:
		w.WriteHeader(f.Status)
		answer = map[string]any{"errors": []string{f.Code, f.Message}}
	case r.Method == http.MethodGet:
		answer = map[string]any{"data": map[string]any{"secret/": map[string]any{"type": "kv"}}}
	default:
		answer = map[string]any{"data": map[string]any{
			"version": 7, "created_time": "2026-11-26T12:00:00Z", "deletion_time": "", "destroyed": false,
		}}
	}
	json.NewEncoder(w).Encode(answer)
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*api.ResponseError](err); ok && len(e.Errors) == 2 {
		return e.StatusCode, e.Errors[0], e.Errors[1]
	}
	return 0, "", ""
}
