package docker_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/sdks/bed"
)

// TestDocker inspects a container, and creates one. The client has no retries of its own.
func TestDocker(t *testing.T) {
	inspect := bed.SDK{
		Name: "ContainerInspect", Answer: "id",
		Call: func(
			t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
		) (string, error) {
			got, err := dial(t, base, url).ContainerInspect(ctx, "name", client.ContainerInspectOptions{})
			return got.Container.ID, err
		},
		Counts: func(r *http.Request) bool { return !strings.HasSuffix(r.URL.Path, "/_ping") },
		Serve:  serve, Typed: typed,
		Own: func([]int, bool) int { return 0 },
	}
	create := inspect
	create.Name = "ContainerCreate"
	create.Decoded = func(_ http.Header, raw []byte) ([]byte, error) {
		var sent struct{ Image string }
		err := json.Unmarshal(raw, &sent)
		return []byte(sent.Image), err
	}
	create.Body = []byte("image")
	create.Call = func(
		t *testing.T, ctx context.Context, base http.RoundTripper, url string, own bool,
	) (string, error) {
		options := client.ContainerCreateOptions{Image: "image", Name: "name"}
		got, err := dial(t, base, url).ContainerCreate(ctx, options)
		return got.ID, err
	}
	create.Unsafe = true
	create.Edit = func(rt *steadyhttp.Transport) {
		rt.Policy.Idempotent = func(r *http.Request) bool {
			// A second one of a name is a conflict.
			return r.Method != http.MethodPost || r.URL.Query().Get("name") != ""
		}
	}
	bed.Run(t, inspect, create)
}

// TestDockerLogsFollow: lines arrive while the daemon keeps the log open.
func TestDockerLogsFollow(t *testing.T) {
	bed.Download(t, nil, func(
		t *testing.T, base http.RoundTripper, url string,
	) (io.ReadCloser, error) {
		return dial(t, base, url, client.WithAPIVersion("1.50")).
			ContainerLogs(t.Context(), "name", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	})
}

// TestDockerUploadStreams: what is there of an archive is sent while its reader has more to come.
func TestDockerUploadStreams(t *testing.T) {
	bed.Wires(t, func(t *testing.T, h2 bool) {
		parts := []string{"one", "two", "three"}
		arrived := make(chan string, len(parts))
		server := bed.Start(t, h2, func(w http.ResponseWriter, r *http.Request) {
			for _, part := range parts {
				got := make([]byte, len(part))
				if _, err := io.ReadFull(r.Body, got); err != nil {
					t.Error(err)
				}
				arrived <- string(got)
			}
			io.Copy(io.Discard, r.Body)
		})
		reader, writer := io.Pipe()
		done := make(chan error, 1)
		rt := (&bed.SDK{}).Transport(server.Client().Transport, nil)
		go func() {
			options := client.CopyToContainerOptions{DestinationPath: "/", Content: reader}
			_, err := dial(t, rt, server.URL, client.WithAPIVersion("1.50")).
				CopyToContainer(t.Context(), "name", options)
			reader.CloseWithError(io.ErrClosedPipe)
			done <- err
		}()
		for _, part := range parts {
			if _, err := io.WriteString(writer, part); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-arrived:
				if got != part {
					t.Fatalf("%q has arrived, want %q", got, part)
				}
			case <-time.After(5 * time.Second):
				writer.CloseWithError(io.ErrUnexpectedEOF) // or the server would wait for the rest
				t.Fatalf("%q is held back", part)
			}
		}
		writer.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDockerSocket: the daemon's socket is the base's to dial.
func TestDockerSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Skip("no sockets: ", err)
	}
	n := 0
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		var f *bed.Failure
		if n == 1 {
			f = &bed.Failure{Status: 503, Message: "busy"}
		}
		serve(w, r, f)
	})
	server := httptest.NewUnstartedServer(answer)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()

	base := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer base.CloseIdleConnections()
	rt := (&bed.SDK{}).Transport(base, nil)
	got, err := dial(t, rt, "unix://"+path, client.WithAPIVersion("1.50")).
		ContainerInspect(t.Context(), "name", client.ContainerInspectOptions{})
	if err != nil || got.Container.ID != "id" || n != 2 {
		t.Errorf("%q, %v after %d requests", got.Container.ID, err, n)
	}
}

// TestDockerOptions: the order and the scheme that docs/sdks.md asks for are needed.
func TestDockerOptions(t *testing.T) {
	_, err := client.New(client.WithHTTPClient(&http.Client{Transport: &steadyhttp.Transport{}}),
		client.WithHost("tcp://127.0.0.1:1"))
	if err == nil {
		t.Error("WithHost after WithHTTPClient is no error")
	}

	server := bed.Start(t, true, func(w http.ResponseWriter, r *http.Request) { serve(w, r, nil) })
	host := "tcp://" + strings.TrimPrefix(server.URL, "https://")
	rt := (&bed.SDK{}).Transport(server.Client().Transport, nil)
	made, err := client.New(client.WithHost(host), client.WithHTTPClient(&http.Client{Transport: rt}),
		client.WithAPIVersion("1.50"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = made.ContainerInspect(t.Context(), "name", client.ContainerInspectOptions{})
	if err == nil ||
		!strings.Contains(err.Error(), "HTTP request to an HTTPS server") {
		t.Errorf("without WithScheme a TLS port answers %v", err)
	}
}

func dial(t *testing.T, base http.RoundTripper, url string, more ...client.Opt) *client.Client {
	host := url
	if scheme, rest, _ := strings.Cut(url, "://"); scheme != "unix" {
		host = "tcp://" + rest
		more = append(more, client.WithScheme(scheme))
	}
	options := []client.Opt{
		client.WithHost(host), client.WithHTTPClient(&http.Client{Transport: base}),
	}
	made, err := client.New(append(options, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func serve(w http.ResponseWriter, r *http.Request, f *bed.Failure) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Api-Version", "1.50")
	switch {
	case f != nil:
		w.WriteHeader(f.Status)
		json.NewEncoder(w).Encode(map[string]string{"message": f.Message})
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(container.CreateResponse{ID: "id"})
	default:
		io.WriteString(w, `{"Id":"id"}`)
	}
}

func typed(err error) (status int, code, message string) {
	switch {
	case err == nil:
		return 0, "", ""
	case errdefs.IsNotFound(err):
		status = http.StatusNotFound
	case errdefs.IsUnavailable(err):
		status = http.StatusServiceUnavailable
	}
	message, _ = strings.CutPrefix(err.Error(), "Error response from daemon: ")
	return status, "", message
}
