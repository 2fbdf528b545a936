package defendertest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// maxControlBody bounds a request of the control API, in bytes.
const maxControlBody = 1 << 20

// A controlRoute is one method of one path of the control API, which tests in other languages use
// as tests in Go use the methods of Server. docs/simulator.openapi.json describes it.
type controlRoute struct {
	method, path string
	handle       func(*Server, *http.Request) (any, error)
}

// controlRoutes is the table of them.
func controlRoutes() []controlRoute {
	return []controlRoute{
		{"GET", "/server", (*Server).controlServer},
		{"GET", "/faults", (*Server).controlFaults},
		{"PUT", "/faults", (*Server).controlSetFaults},
		{"GET", "/quotas", (*Server).controlQuotas},
		{"PUT", "/quotas", (*Server).controlSetQuotas},
		{"GET", "/ledger", (*Server).controlLedger},
		{"GET", "/counts", (*Server).controlCounts},
		{"GET", "/effects", (*Server).controlEffects},
		{"POST", "/reset", (*Server).controlReset},
	}
}

// serveControl answers the control API. A page in a browser must not reach it: by a name that leads
// to the loopback interface, or as a form that is sent from elsewhere.
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" || !isLoopback(r.Host) {
		writeControl(w, http.StatusForbidden,
			controlError{"call it by its loopback address, and not from a page"})
		return
	}
	var allowed []string
	for _, route := range controlRoutes() {
		if route.path != r.URL.Path {
			continue
		}
		if allowed = append(allowed, route.method); route.method != r.Method {
			continue
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
		answer, err := route.handle(s, r)
		if err != nil {
			writeControl(w, http.StatusBadRequest, controlError{err.Error()})
			return
		}
		writeControl(w, http.StatusOK, answer)
		return
	}
	if allowed != nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeControl(w, http.StatusMethodNotAllowed,
			controlError{"the method is " + strings.Join(allowed, " or ")})
		return
	}
	writeControl(w, http.StatusNotFound, controlError{"there is no such path"})
}

// A controlError is what all errors of the control API are.
type controlError struct {
	Error string `json:"error"`
}

func writeControl(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(encode(body), '\n')) // a caller who has gone can't be told
}

// isLoopback reports whether a Host is the loopback interface by its own name.
func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// readControl reads a JSON object whose members have the given form, and nothing behind it. What
// says nothing, or two things, is refused: null, and a name that is there twice.
func readControl[T any](r *http.Request) (map[string]T, error) {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	noForm := func(err error) error {
		return fmt.Errorf("the body is no JSON of the documented form: %w", err)
	}
	switch begin, err := decoder.Token(); {
	case err != nil:
		return nil, noForm(err)
	case begin != json.Delim('{'):
		return nil, noForm(errors.New("use an object, as in {}"))
	}
	named := make(map[string]T)
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, noForm(cmp.Or(err, errors.New("a name is missing")))
		}
		if _, twice := named[name]; twice {
			return nil, fmt.Errorf("%q is there twice: name it once", shown(name))
		}
		var data json.RawMessage
		if err := decoder.Decode(&data); err != nil {
			return nil, noForm(err)
		}
		if string(data) == "null" {
			return nil, fmt.Errorf("%q is null: leave it out, or give it a value", shown(name))
		}
		inner := json.NewDecoder(bytes.NewReader(data))
		inner.DisallowUnknownFields()
		var value T
		if err := inner.Decode(&value); err != nil {
			return nil, noForm(err)
		}
		named[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, noForm(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the body has more than one JSON value")
	}
	return named, nil
}

// controlServer says what a client needs to know first.
func (s *Server) controlServer(*http.Request) (any, error) {
	return struct {
		URL      string   `json:"url"`
		Storage  string   `json:"storageUrl"`
		Minute   string   `json:"minute"`
		Hour     string   `json:"hour"`
		Tokens   int      `json:"tokensIssued"`
		Machines []string `json:"machines"`
	}{s.URL, s.StorageURL, s.config.minute().String(), s.config.hour().String(), s.TokensIssued(),
		s.MachineIDs()}, nil
}

// controlFaults lists the shares by their names, and the pause of slow answers.
func (s *Server) controlFaults(*http.Request) (any, error) {
	s.mu.Lock()
	f := s.faults.faults
	s.mu.Unlock()
	all := map[string]any{"SlowFor": f.slowFor().String(), "Token429": f.Token429}
	for _, share := range f.shares() {
		all[share.name] = share.of
	}
	return all, nil
}

// controlSetFaults replaces all faults: what isn't named is 0.
func (s *Server) controlSetFaults(r *http.Request) (any, error) {
	named, err := readControl[json.RawMessage](r)
	if err != nil {
		return nil, err
	}
	var f Faults
	for name, data := range named {
		var share float64
		var text string
		switch {
		case name == "SlowFor":
			d, err := time.Duration(0), json.Unmarshal(data, &text)
			if err == nil {
				d, err = time.ParseDuration(text)
			}
			if err != nil {
				return nil, fmt.Errorf("SlowFor is %s: use a duration such as \"1s\"",
					shown(string(data)))
			}
			f.SlowFor = d
		case json.Unmarshal(data, &share) != nil:
			return nil, fmt.Errorf("%q is no number: use a share from 0 to 1", shown(name))
		default:
			if err := f.Set(name, share); err != nil {
				return nil, err
			}
		}
	}
	if err := f.problem("faults"); err != nil {
		return nil, err
	}
	s.SetFaults(f)
	return s.controlFaults(r)
}

// A controlWindow is a quota.Window as JSON has it.
type controlWindow struct {
	N   int    `json:"n"`
	Per string `json:"per"`
}

// controlQuotas lists the windows by family, as they are documented and not as they are scaled.
func (s *Server) controlQuotas(*http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string][]controlWindow)
	for family, windows := range s.quotas.families {
		all[family] = []controlWindow{}
		for _, w := range windows {
			all[family] = append(all[family], controlWindow{w.N, w.Per.String()})
		}
	}
	return all, nil
}

// controlSetQuotas replaces the windows of the families that are named.
func (s *Server) controlSetQuotas(r *http.Request) (any, error) {
	named, err := readControl[[]controlWindow](r)
	if err != nil {
		return nil, err
	}
	quotas := make(map[string][]quota.Window)
	for family, windows := range named {
		quotas[family] = []quota.Window{}
		for _, w := range windows {
			per, err := time.ParseDuration(w.Per)
			if err != nil {
				return nil, fmt.Errorf("%s: per is %q: use a duration such as \"1m\"", shown(family),
					shown(w.Per))
			}
			quotas[family] = append(quotas[family], quota.Window{N: w.N, Per: per})
		}
	}
	if err := checkQuotas("quotas", quotas); err != nil {
		return nil, err
	}
	s.SetQuotas(quotas)
	return s.controlQuotas(r)
}

// A controlCall is a Call as JSON has it.
type controlCall struct {
	Seq       int       `json:"seq"`
	At        time.Time `json:"at"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Query     string    `json:"query"`
	Family    string    `json:"family"`
	CallID    string    `json:"callId"`
	Status    int       `json:"status"`
	Code      string    `json:"code"`
	Target    string    `json:"target"`
	Processed bool      `json:"processed"`
	Effects   []string  `json:"effects"`
	Fault     string    `json:"fault"`
}

// controlLedger lists the calls after one, of one family if it is named.
func (s *Server) controlLedger(r *http.Request) (any, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query can't be read: %.100v", err)
	}
	for name, values := range query {
		// One that is misspelt would silently list everything.
		if name != "after" && name != "limit" && name != "family" {
			return nil, fmt.Errorf("there is no parameter %q: use after, limit and family", shown(name))
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("%s is there twice: name it once", name)
		}
	}
	after, most := 0, 1000
	for name, into := range map[string]*int{"after": &after, "limit": &most} {
		if text := query.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%s is %q: use a number from 0 on", name, shown(text))
			}
			*into = n
		}
	}
	calls := s.Calls()
	if i := slices.IndexFunc(calls, func(c Call) bool { return c.Seq > after }); i >= 0 {
		calls = calls[i:]
	} else {
		calls = nil
	}
	listed, next := []controlCall{}, after
	for _, c := range calls {
		if len(listed) == most {
			break
		}
		next = c.Seq
		if query.Has("family") && c.Family != query.Get("family") {
			continue
		}
		effects := []string{}
		if c.Effect != "" {
			effects = strings.Split(c.Effect, "\n")
		}
		listed = append(listed, controlCall{
			c.Seq, c.At, c.Method, c.Path, c.RawQuery, c.Family, c.CallID, c.Status, c.Code, c.Target,
			c.Processed, effects, c.Fault,
		})
	}
	return struct {
		Calls []controlCall `json:"calls"`
		Next  int           `json:"next"` // what the next call gives as after
	}{listed, next}, nil
}

// controlCounts is Server.Counts; the family "" is that of unknown paths and methods.
func (s *Server) controlCounts(*http.Request) (any, error) {
	type count struct {
		Calls     int `json:"calls"`
		Answered  int `json:"answered"`
		Throttled int `json:"throttled"`
		Refused   int `json:"refused"`
		Failed    int `json:"failed"`
	}
	all := make(map[string]count)
	for family, c := range s.Counts() {
		all[family] = count(c)
	}
	return all, nil
}

// controlEffects is Server.Effects.
func (s *Server) controlEffects(*http.Request) (any, error) { return s.Effects(), nil }

// controlReset is Server.Reset.
func (s *Server) controlReset(*http.Request) (any, error) {
	s.Reset()
	return struct{}{}, nil
}
