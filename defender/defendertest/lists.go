package defendertest

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxTop is the documented bound of $top.
const maxTop = 10000

// A listing is a list of the API: what may be asked of it, and how.
type listing[T any] struct {
	context    string // behind $metadata#
	properties []property[T]
	expand     string // what $expand may name; "": nothing
	unselected string // what $select doesn't know, though the items have it

	// show is how an item is written. nil: as it is.
	show func(item *T, expanded bool) any

	rules rules
}

// rules are what differs between the APIs.
type rules struct {
	size    int    // of a page without $top
	most    int    // of $top
	clamp   bool   // a larger $top is cut, and no error
	mostErr error  // what a larger $top is answered with; nil: an ODataError
	skip    int    // the largest $skip; 0: any
	options string // the query options, between blanks
	links   links
}

// links says when a page leads to the next.
type links uint8

const (
	unlessTop links = iota // not where $top was given, as seen of Defender for Endpoint
	always
	bySkip // always, with $skip and $top in the link
	never
)

// mdeOptions are those of Defender for Endpoint, which supports OData, with a $filter on
// some properties only. $search and $apply are for nobody.
const mdeOptions = "$filter $top $skip $skiptoken $orderby $select $expand $count"

// mdeRules are those of Defender for Endpoint's lists.
func (t *tenant) mdeRules() rules {
	return rules{size: t.pageSize, most: maxTop,
		options: mdeOptions}
}

// A page is the part of a list that a call asks for, after filtering.
type page struct {
	from, size int
}

// answer answers with one page of a list.
func (l listing[T]) answer(r request, items []T) (answer, error) {
	if err := l.checkOptions(r.query); err != nil {
		return answer{}, err
	}
	wanted, err := l.rules.page(r.query)
	if err != nil {
		return answer{}, err
	}
	chosen, err := l.choose(r, items)
	if err != nil {
		return answer{}, err
	}
	keep, err := l.selection(r.query)
	if err != nil {
		return answer{}, err
	}
	from := min(wanted.from, len(chosen))
	to := from + min(wanted.size, len(chosen)-from)
	written := make([]json.RawMessage, 0, to-from) // never null on the wire
	for i := range chosen[from:to] {
		written = append(written, keep(encode(l.view(&chosen[from+i], r.query.Get("$expand") != ""))))
	}
	body := struct {
		Context string            `json:"@odata.context"`
		Count   *int              `json:"@odata.count,omitempty"`
		Value   []json.RawMessage `json:"value"`
		Next    string            `json:"@odata.nextLink,omitempty"`
	}{Context: r.metadata(l.context), Value: written}
	if n := len(chosen); r.query.Get("$count") == "true" {
		body.Count = &n
	}
	// An empty page never leads on: a client would follow it for ever.
	if to < len(chosen) && to > from {
		body.Next = l.rules.nextLink(r, page{to, wanted.size})
	}
	return done(http.StatusOK, body), nil
}

// countAnswer answers a path that ends with /$count: how many the $filter chooses.
func (l listing[T]) countAnswer(r request, items []T) (answer, error) {
	if err := l.checkOptions(r.query); err != nil {
		return answer{}, err
	}
	chosen, err := l.choose(r, items)
	if err != nil {
		return answer{}, err
	}
	return answer{
		status: http.StatusOK, contentType: "text/plain; charset=utf-8",
		body: []byte(strconv.Itoa(len(chosen))),
	}, nil
}

// view is how an item is written.
func (l listing[T]) view(item *T, expanded bool) any {
	if l.show == nil {
		return item
	}
	return l.show(item, expanded)
}

// checkOptions refuses what isn't known. An option that was ignored would be a wrong answer with
// a 200.
func (l listing[T]) checkOptions(query url.Values) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if strings.HasPrefix(name, "$") && !oneOf(name, l.rules.options) {
			return errOData("The query parameter '%s' is not supported.", shown(name))
		}
		// Defender ignores it then, and Graph doesn't always: no test should pass by that.
		if oneOf("$"+strings.ToLower(name), mdeOptions) {
			return errOData("The query parameter '%s' has no dollar sign.", shown(name))
		}
	}
	if expand := query.Get("$expand"); expand != "" && expand != l.expand {
		return errOData("Could not find a property named '%s' to expand.", shown(expand))
	}
	if count := query.Get("$count"); query.Has("$count") && count != "true" && count != "false" {
		return errOData("Invalid value '%s' for $count query option found. Valid values are 'true' and 'false'.", shown(count))
	}
	return nil
}

// choose filters and orders.
func (l listing[T]) choose(r request, items []T) ([]T, error) {
	accepts, err := parseFilter(l.properties, r.query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	chosen := items
	if accepts != nil {
		chosen = nil
		for i := range items {
			if accepts(&items[i], "") {
				chosen = append(chosen, items[i])
			}
		}
	}
	order := r.query.Get("$orderby")
	if order == "" {
		return chosen, nil
	}
	compare, err := l.order(order)
	if err != nil {
		return nil, err
	}
	chosen = slices.Clone(chosen)
	slices.SortStableFunc(chosen, compare)
	return chosen, nil
}

// order reads an $orderby, as in "lastSeen desc, id".
func (l listing[T]) order(text string) (func(T, T) int, error) {
	type key struct {
		of   func(*T) value
		sign int
	}
	var keys []key
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		i := -1
		if len(words) > 0 {
			i = slices.IndexFunc(l.properties,
				func(p property[T]) bool { return strings.EqualFold(p.name, words[0]) })
		}
		switch {
		case i < 0 || l.properties[i].kind == collection:
			return nil, errOData("Could not find a property named '%s' that $orderby supports.",
				shown(strings.TrimSpace(part)))
		case len(words) > 2 || len(words) == 2 && !oneOf(words[1], "asc desc"):
			return nil, errOData("Syntax error: 'asc' or 'desc' expected in '%s'.", shown(text))
		case len(keys) == len(l.properties):
			return nil, errOData("The limit of '%d' for $orderby has been exceeded.", len(keys))
		}
		k := key{l.properties[i].of, 1}
		if len(words) == 2 && words[1] == "desc" {
			k.sign = -1
		}
		keys = append(keys, k)
	}
	return func(a, b T) int {
		for _, k := range keys {
			if c := k.of(&a).compare(k.of(&b)); c != 0 {
				return k.sign * c
			}
		}
		return 0
	}, nil
}

// selection reads a $select, and returns what makes the written item smaller.
func (l listing[T]) selection(query url.Values) (func([]byte) json.RawMessage, error) {
	text := query.Get("$select")
	if text == "" {
		return func(whole []byte) json.RawMessage { return whole }, nil
	}
	var none T
	known := keys(encode(l.view(&none, true)))
	wanted := make(map[string]bool)
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(known, func(key string) bool { return strings.EqualFold(key, name) })
		if i < 0 || strings.EqualFold(name, l.unselected) {
			return nil, errOData("Could not find a property named '%s' to select.", shown(name))
		}
		wanted[known[i]] = true
	}
	return func(whole []byte) json.RawMessage {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(whole, &all); err != nil {
			panic("defendertest: " + err.Error()) // encode has written it
		}
		maps.DeleteFunc(all, func(key string, _ json.RawMessage) bool { return !wanted[key] })
		return encode(all)
	}, nil
}

// keys are those of a JSON object.
func keys(object []byte) []string {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		panic("defendertest: " + err.Error())
	}
	return slices.Sorted(maps.Keys(all))
}

// page reads $top and $skip, or the $skiptoken of a nextLink, which stands for both.
func (l rules) page(query url.Values) (page, error) {
	if query.Has("$skiptoken") {
		return parseSkipToken(query.Get("$skiptoken"))
	}
	most := l.most
	if l.clamp || l.mostErr != nil {
		most = math.MaxInt
	}
	top, err := count(query, "$top", l.size, most)
	if err != nil {
		return page{}, err
	}
	if top > l.most && l.mostErr != nil {
		return page{}, l.mostErr
	}
	most = math.MaxInt // past the end is an empty page
	if l.skip > 0 {
		most = l.skip
	}
	skip, err := count(query, "$skip", 0, most)
	return page{skip, min(top, l.most)}, err
}

// integer is Atoi, but for what an int holds on 64 bits only: that is the largest int then. It is past
// the end of every list, as it would be there.
func integer(text string) (int, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	return int(min(max(n, math.MinInt), math.MaxInt)), err
}

// count reads a number from 0 to most.
func count(query url.Values, name string, otherwise, most int) (int, error) {
	if !query.Has(name) {
		return otherwise, nil
	}
	text := query.Get(name)
	n, err := integer(text)
	switch {
	case err != nil || n < 0:
		return 0, errOData("Invalid value '%s' for %s query option found. The %s query option requires a non-negative integer value.", shown(text), name, name)
	case n > most:
		return 0, errOData("The limit of '%d' for %s query has been exceeded. The value from the incoming request is '%d'.", most, name, n)
	}
	return n, nil
}

// nextLink is absolute and keeps the rest of the query, so that a filter holds on
// all pages. Its token is to be passed back as it is.
func (l rules) nextLink(r request, next page) string {
	if l.links == never || l.links == unlessTop && r.query.Has("$top") {
		return ""
	}
	query := maps.Clone(r.query)
	query.Del("$top")
	query.Del("$skip")
	if l.links == bySkip {
		query.Set("$top", strconv.Itoa(next.size))
		query.Set("$skip", strconv.Itoa(next.from))
	} else {
		text := strconv.Itoa(next.from) + "," + strconv.Itoa(next.size)
		query.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	// The documented links have a bare dollar, which a query allows.
	return r.origin + r.path + "?" + strings.ReplaceAll(query.Encode(), "%24", "$")
}

// parseSkipToken reads what nextLink wrote. The token is a place in the list and
// not a name, so that a list which shrinks between two pages shows less: the real
// service promises nothing for that case either.
func parseSkipToken(token string) (page, error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	from, size, ok := strings.Cut(string(text), ",")
	start, errFrom := integer(from)
	length, errSize := integer(size)
	if err != nil || !ok || errFrom != nil || errSize != nil || start < 0 || length < 0 {
		return page{}, errOData("Invalid value '%s' for $skiptoken query option found.", shown(token))
	}
	return page{start, length}, nil
}

// single answers with one entity, in front of which its context stands.
func single(r request, status int, context string, entity any, effects ...string) answer {
	a := done(status, entity, effects...)
	head := encode(struct {
		Context string `json:"@odata.context"`
	}{r.metadata(context)})
	a.body = append(append(head[:len(head)-1], ','), a.body[1:]...)
	return a
}
