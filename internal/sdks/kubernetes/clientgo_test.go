package kubernetes_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// itsAttempts is how many requests client-go makes of a call at the most. It retries what has a
// Retry-After, POSTs too, and no setting of a client changes that.
const itsAttempts = 11

// final takes Retry-After out of the answers that we return: without it, client-go does not retry.
type final struct{ *steadyhttp.Transport }

func (f final) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.Transport.RoundTrip(req)
	if resp != nil {
		resp.Header.Del("Retry-After")
	}
	return resp, err
}

// TestClientGo gets and creates an object.
func TestClientGo(t *testing.T) {
	get := bed.SDK{
		Name: "Get", Answer: "name",
		Busy: string(metav1.StatusReasonServiceUnavailable), Missing: string(metav1.StatusReasonNotFound),
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			return name(maps(t, base, url, own).Get(ctx, "name", metav1.GetOptions{}))
		},
		Serve: serve, Typed: typed,
		Own: func(statuses []int, forever bool) int {
			if forever {
				return itsAttempts
			}
			return len(statuses) + 1
		},
		Both: itsAttempts * bed.Attempts,
	}
	create := get
	create.Name = "Create"
	create.Body = []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"name"}}` + "\n")
	create.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		fields := map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}
		object := &unstructured.Unstructured{Object: fields}
		object.SetName("name")
		return name(maps(t, base, url, own).Create(ctx, object, metav1.CreateOptions{}))
	}
	create.Unsafe = true
	create.Edit = func(rt *steadyhttp.Transport) {
		rt.Policy.Idempotent = func(*http.Request) bool { return true } // a second one is AlreadyExists
	}
	bed.Run(t, get, create)
}

// TestClientGoWrapTransport: by the recipe, TLS is the configuration's, client-go finds its own
// transport below ours, and a list that is refused once is answered.
func TestClientGoWrapTransport(t *testing.T) {
	var n atomic.Int32
	server := bed.Start(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Error(r.Proto)
		}
		if n.Add(1) == 1 {
			serve(w, r, &bed.Failure{Status: 503})
			return
		}
		serve(w, r, nil)
	})
	config := &rest.Config{
		Host: server.URL,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		},
		WrapTransport: func(base http.RoundTripper) http.RoundTripper {
			return final{&steadyhttp.Transport{Base: base}}
		},
	}
	rt, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	defer utilnet.CloseIdleConnectionsFor(rt)
	if found, err := utilnet.TLSClientConfig(rt); err != nil || found == nil || found.RootCAs == nil {
		t.Errorf("client-go finds %v, %v for its TLS configuration", found, err)
	}
	client, err := dynamic.NewForConfigAndClient(config, &http.Client{Transport: rt})
	if err != nil {
		t.Fatal(err)
	}
	got, err := name(client.Resource(resource).Namespace("default").
		Get(t.Context(), "name", metav1.GetOptions{}))
	if err != nil || got != "name" || n.Load() != 2 {
		t.Errorf("%q, %v after %d requests", got, err, n.Load())
	}

	config.Transport, config.WrapTransport = &steadyhttp.Transport{}, nil
	if _, err := rest.TransportFor(config); err == nil {
		t.Error("TLS options beside Transport are no error: docs/sdks.md says that they are")
	}
}

// TestClientGoWatch: events arrive while the server keeps the watch open, after a 429 too.
func TestClientGoWatch(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		names := []string{"one", "two", "three"}
		var events []string
		for _, name := range names {
			events = append(events, fmt.Sprintf(`{"type":"ADDED","object":%s}`+"\n", object(name)))
		}
		got := make(chan struct{}, len(names))
		var n atomic.Int32
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				w.Header().Set("Retry-After", "0")
				serve(w, r, &bed.Failure{Status: 429, Code: string(metav1.StatusReasonTooManyRequests)})
				return
			}
			w.Header().Set("Content-Type", "application/json")
			bed.Lockstep(w, got, events...)
		})
		watch, err := maps(t, (&bed.SDK{}).Transport(server.Client().Transport, nil), server.URL, false).
			Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		for _, want := range names {
			event, open := <-watch.ResultChan()
			if !open {
				t.Fatalf("the watch has ended before %q", want)
			}
			if u, ok := event.Object.(*unstructured.Unstructured); !ok || u.GetName() != want {
				t.Fatalf("%v, want %q", event, want)
			}
			got <- struct{}{}
		}
		if n.Load() != 2 {
			t.Errorf("%d requests, want 2", n.Load())
		}
	})
}

// TestClientGoLogs: lines of a log arrive while the server keeps it open.
func TestClientGoLogs(t *testing.T) {
	bed.Download(t, nil, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		client, err := rest.UnversionedRESTClientFor(dynamic.ConfigFor(config(base, url, true)))
		if err != nil {
			return nil, err
		}
		return client.Get().AbsPath("/api/v1/namespaces/default/pods/name/log").
			Param("follow", "true").Stream(t.Context())
	})
}

// TestClientGoMaxRetries: the one switch there is goes with each request of the REST client.
func TestClientGoMaxRetries(t *testing.T) {
	s := bed.SDK{Serve: serve}
	busy := bed.Failure{Status: 503, Code: "busy", Message: "busy", After: "0"}
	v := bed.NewService(t, &s, false, busy, busy, busy, busy, busy)
	client, err := rest.UnversionedRESTClientFor(
		dynamic.ConfigFor(config(s.Transport(v.Client().Transport, nil), v.URL, true)))
	if err != nil {
		t.Fatal(err)
	}
	err = client.Get().AbsPath("/api/v1/namespaces/default/configmaps/name").
		MaxRetries(0).Do(t.Context()).Error()
	if status, _, _ := typed(err); status != 503 || len(v.Requests()) != bed.Attempts {
		t.Errorf("%d requests: %v", len(v.Requests()), err)
	}
}

var resource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func config(base http.RoundTripper, url string, own bool) *rest.Config {
	return &rest.Config{
		Host: url, QPS: -1, // 5 calls a second otherwise, whatever attempts we make of each
		WrapTransport: func(http.RoundTripper) http.RoundTripper {
			if rt, ok := base.(*steadyhttp.Transport); ok && !own {
				return final{rt}
			}
			return base
		},
	}
}

func maps(t *testing.T, base http.RoundTripper, url string, own bool) dynamic.ResourceInterface {
	client, err := dynamic.NewForConfig(config(base, url, own))
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(resource).Namespace("default")
}

func name(object *unstructured.Unstructured, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return object.GetName(), nil
}

func object(name string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}}`, name)
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		io.WriteString(w, object("name"))
		return
	}
	w.WriteHeader(f.Status)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(f.Status),
		Reason: metav1.StatusReason(f.Code), Message: f.Message,
	})
}

func typed(err error) (status int, code, message string) {
	if e, ok := errors.AsType[*apierrors.StatusError](err); ok {
		s := e.Status()
		return int(s.Code), string(s.Reason), s.Message
	}
	return 0, "", ""
}
