package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/defender"
	"github.com/steadyhttp/steadyhttp/quota"
)

const (
	workers    = 16
	pageSize   = 50
	batchSize  = 500 // the most that indicators/import takes
	indicators = 10 * batchSize
	pollEvery  = 100 * time.Millisecond
)

// batch is what a connector does in a night. Its calls know of no quota, no fault and no steadyhttp:
// only its http.Client does.
type batch struct {
	base     string
	machines []string // that the company knows to have
	client   *http.Client
	progress progress
	quotas   map[string][]quota.Window // that the client keeps to, by family; nil: none

	mu       sync.Mutex // guards outcomes
	outcomes []outcome
}

// outcome tells how one call ended.
type outcome struct {
	call  string // method and path
	wrong bool   // it was meant to be refused
	once  bool   // it orders something that must not be done twice
	stood bool   // its answer was lost, and it was found to be carried out, or ordered again
	err   error  // nil: answered
}

// run makes the calls in a connector's order. A failed one does not end it: what can be done is
// done.
func (b *batch) run(ctx context.Context) {
	b.progress.expect(b.calls(), b.least())
	b.listMachines(ctx)
	forEach(ctx, b.machines, func(id string) {
		b.get(ctx, "/api/machines/"+url.PathEscape(id), nil)
		b.get(ctx, "/api/machines/"+url.PathEscape(id)+"/vulnerabilities", nil)
	})
	b.importIndicators(ctx)
	b.post(ctx, "/api/advancedqueries/run", map[string]string{"Query": "DeviceInfo | summarize count() by OSPlatform"}, nil)
	for _, id := range b.machines[:2] {
		b.isolate(ctx, id)
	}
	b.makeMistakes(ctx)
}

// plan says how often run makes which calls, but for a dozen at the end.
func (b *batch) plan() map[string]int {
	return map[string]int{
		"/api/machines":                   len(b.machines) / pageSize,
		"/api/machines/m/vulnerabilities": len(b.machines),
		"/api/machines/m":                 len(b.machines),
		"/api/indicators/import":          indicators / batchSize,
	}
}

// calls returns how many calls there will be, about.
func (b *batch) calls() int {
	n := 10
	for _, times := range b.plan() {
		n += times
	}
	return n
}

// least returns how long the quotas alone make it take: families do not wait for each other.
func (b *batch) least() time.Duration {
	families := make(map[string]int)
	for path, times := range b.plan() {
		method := http.MethodGet
		if strings.HasSuffix(path, "/import") {
			method = http.MethodPost
		}
		req := &http.Request{Method: method, URL: &url.URL{Path: path}}
		if e, ok := defender.Match(req); ok {
			families[e.Family] += times
		}
	}
	least := time.Duration(0)
	for family, calls := range families {
		least = max(least, quota.Estimate(b.quotas[family], calls))
	}
	return least
}

// listMachines follows the pages to the end. It leaves the size to the service, which gives no link
// where $top is given.
func (b *batch) listMachines(ctx context.Context) {
	next := b.base + "/api/machines"
	for next != "" {
		var page struct {
			NextLink string `json:"@odata.nextLink"`
		}
		if !b.call(ctx, http.MethodGet, next, nil, &page, false) {
			return // nobody knows where the next page is
		}
		next = page.NextLink
	}
}

func (b *batch) importIndicators(ctx context.Context) {
	var batches [][]indicator
	for at := 0; at < indicators; at += batchSize {
		batches = append(batches, newIndicators(at, batchSize))
	}
	forEach(ctx, batches, func(batch []indicator) {
		b.post(ctx, "/api/indicators/import", map[string]any{"Indicators": batch}, nil)
	})
}

type indicator struct {
	Value       string `json:"indicatorValue"`
	Type        string `json:"indicatorType"`
	Action      string `json:"action"`
	Title       string `json:"title"`
	Severity    string `json:"severity"`
	Description string `json:"description"`
}

func newIndicators(from, n int) []indicator {
	list := make([]indicator, n)
	for i := range list {
		list[i] = indicator{
			Value: fmt.Sprintf("host%05d.example.com", from+i), Type: "DomainName", Action: "Alert",
			Title: "demo", Severity: "Low", Description: "made by steady demo",
		}
	}
	return list
}

// action is the part of a machine action that a connector looks at.
type action struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// isolate orders an isolation exactly once, and waits until it has succeeded. If the answer to the
// order is lost, it may have been carried out: isolate looks for it before it orders again.
func (b *batch) isolate(ctx context.Context, id string) {
	var ordered action
	for range 5 {
		if b.post(ctx, "/api/machines/"+url.PathEscape(id)+"/isolate", map[string]string{"Comment": "demo", "IsolationType": "Full"}, &ordered) {
			break
		}
		var found struct {
			Value []action `json:"value"`
		}
		filter := fmt.Sprintf("machineId eq '%s' and type eq 'Isolate'", id)
		if b.get(ctx, "/api/machineactions?$filter="+url.QueryEscape(filter), &found) && len(found.Value) > 0 {
			ordered = found.Value[0]
			break
		}
	}
	if ordered.ID != "" {
		b.stands("POST /api/machines/" + id + "/isolate")
	}
	for ordered.ID != "" && ordered.Status != "Succeeded" && ctx.Err() == nil {
		pause(ctx, pollEvery)
		if !b.get(ctx, "/api/machineactions/"+url.PathEscape(ordered.ID), &ordered) {
			return
		}
	}
}

// stands clears the failures of an order that was carried out after all.
func (b *batch) stands(call string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.outcomes {
		if o := &b.outcomes[i]; o.call == call && o.err != nil {
			o.stood, o.err = true, nil
		}
	}
}

// makeMistakes makes calls that no retry can help.
func (b *batch) makeMistakes(ctx context.Context) {
	wrong := func(method, path string, body any) {
		b.call(ctx, method, b.base+path, body, nil, true)
	}
	wrong(http.MethodGet, "/api/machines/123123123", nil)
	wrong(http.MethodPost, "/api/machines/m0001/runAntiVirusScan", map[string]string{"comment": "wrong case", "ScanType": "Quick"})
	wrong(http.MethodPost, "/api/advancedqueries/run", json.RawMessage(`{"Query": DeviceInfo}`))
	wrong(http.MethodPost, "/api/indicators/import", map[string]any{"Indicators": newIndicators(0, batchSize+1)})
}

func (b *batch) get(ctx context.Context, path string, answer any) bool {
	return b.call(ctx, http.MethodGet, b.base+path, nil, answer, false)
}

func (b *batch) post(ctx context.Context, path string, body, answer any) bool {
	return b.call(ctx, http.MethodPost, b.base+path, body, answer, false)
}

// call makes one call, notes its outcome, and reports whether it was answered.
func (b *batch) call(ctx context.Context, method, target string, body, answer any, wrong bool) bool {
	err := b.exchange(ctx, method, target, body, answer)
	path := target
	if u, err := url.Parse(target); err == nil { // a nextLink may be anything
		path = u.Path
	}
	b.mu.Lock()
	once := method == http.MethodPost && strings.HasPrefix(path, "/api/machines/") // a machine action
	b.outcomes = append(b.outcomes,
		outcome{call: method + " " + path, wrong: wrong, once: once, err: err})
	b.mu.Unlock()
	b.progress.step()
	return err == nil
}

func (b *batch) exchange(ctx context.Context, method, target string, body, answer any) error {
	var content []byte
	switch body := body.(type) {
	case nil:
	case json.RawMessage:
		content = body // as it is, for it may be broken on purpose
	default:
		var err error
		if content, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.client.Do(req)
	if err != nil {
		// The URL is in the outcome already.
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return err
	}
	defer resp.Body.Close()
	if err := steadyhttp.Check(resp); err != nil {
		return err
	}
	if answer == nil {
		answer = new(json.RawMessage)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("the answer's body broke off: %w", err)
	}
	return nil
}

// forEach works through items with all workers.
func forEach[T any](ctx context.Context, items []T, do func(T)) {
	queue := make(chan T)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for item := range queue {
				do(item)
			}
		})
	}
	for _, item := range items {
		if ctx.Err() != nil {
			break
		}
		queue <- item
	}
	close(queue)
	group.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
