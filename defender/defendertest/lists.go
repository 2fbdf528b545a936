package defendertest

import (
	"encoding/base64"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxTop is the documented bound of $top.
const maxTop = 10000

// An entity is what a list holds. Its properties are what $filter may compare,
// times in RFC 3339. All names must be there for the zero value too.
type entity interface {
	properties() map[string]string
}

// A page is the part of a list that a call asks for, after filtering.
type page struct {
	from, size int
}

// listAnswer answers with one page of a list, and with a link to the next one if
// there is more. $top doesn't suppress the link: that is documented for exports
// only, and a client who wants no more needn't follow.
func listAnswer[T entity](r request, kind string, items []T, pageSize int) (answer, error) {
	wanted, err := askedPage(r.query, pageSize, maxTop)
	if err != nil {
		return answer{}, err
	}
	return pageAnswer(r, kind, items, wanted)
}

// pageAnswer is listAnswer for a page that was asked for in another way.
func pageAnswer[T entity](r request, kind string, items []T, wanted page) (answer, error) {
	conditions, err := parseFilter[T](r.query.Get("$filter"))
	if err != nil {
		return answer{}, err
	}
	chosen := []T{} // never null on the wire
	for _, item := range items {
		if conditions.accepts(item) {
			chosen = append(chosen, item)
		}
	}
	from := min(wanted.from, len(chosen))
	to := from + min(wanted.size, len(chosen)-from)
	body := struct {
		Context string `json:"@odata.context"`
		Value   []T    `json:"value"`
		Next    string `json:"@odata.nextLink,omitempty"`
	}{Context: r.origin + "/api/$metadata#" + kind, Value: chosen[from:to]}
	// An empty page never leads on: a client would follow it for ever.
	if to < len(chosen) && to > from {
		body.Next = nextLink(r, page{to, wanted.size})
	}
	return done(http.StatusOK, body), nil
}

// askedPage reads $top, which is most at most, and $skip, or the $skiptoken of a
// nextLink, which stands for both.
func askedPage(query url.Values, pageSize, most int) (page, error) {
	if query.Has("$skiptoken") {
		return parseSkipToken(query.Get("$skiptoken"))
	}
	top, err := count(query, "$top", pageSize, most)
	if err != nil {
		return page{}, err
	}
	skip, err := count(query, "$skip", 0, math.MaxInt) // past the end is an empty page
	return page{skip, top}, err
}

// number is Atoi, but for what an int holds on 64 bits only: that is the largest int then. It is past
// the end of every list, as it would be there.
func number(text string) (int, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	return int(min(max(n, math.MinInt), math.MaxInt)), err
}

// count reads a number from 0 to most.
func count(query url.Values, name string, otherwise, most int) (int, error) {
	if !query.Has(name) {
		return otherwise, nil
	}
	text := query.Get(name)
	n, err := number(text)
	switch {
	case err != nil || n < 0:
		return 0, errOData("Invalid value '%s' for %s query option found. The %s query option requires a non-negative integer value.", text, name, name)
	case n > most:
		return 0, errOData("The limit of '%d' for %s query has been exceeded. The value from the incoming request is '%d'.", most, name, n)
	}
	return n, nil
}

// nextLink is absolute and keeps the rest of the query, so that a filter holds on
// all pages. Its token is to be passed back as it is.
func nextLink(r request, next page) string {
	query := maps.Clone(r.query)
	query.Del("$top")
	query.Del("$skip")
	text := strconv.Itoa(next.from) + "," + strconv.Itoa(next.size)
	query.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(text)))
	// The documented links have a bare dollar, which a query allows.
	return r.origin + r.path + "?" + strings.ReplaceAll(query.Encode(), "%24", "$")
}

// parseSkipToken reads what nextLink wrote. The token is a place in the list and
// not a name, so that a list which shrinks between two pages shows less: the real
// service promises nothing for that case either.
func parseSkipToken(token string) (page, error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	from, size, ok := strings.Cut(string(text), ",")
	start, errFrom := number(from)
	length, errSize := number(size)
	if err != nil || !ok || errFrom != nil || errSize != nil || start < 0 || length < 0 {
		return page{}, errOData("Invalid value '%s' for $skiptoken query option found.", token)
	}
	return page{start, length}, nil
}
