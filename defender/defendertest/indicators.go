package defendertest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of the documentation, which real feeds do reach.
const (
	maxIndicators = 15000 // active ones in a tenant, as documented
	maxBatch      = 500   // indicators in a call, as documented
)

// An indicator is one that was submitted or imported. Its id is a number, as in
// the documented examples, and its other properties come back as they came in.
type indicator struct {
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	SourceType  string    `json:"sourceType"`
	CreatedBy   string    `json:"createdBy"`
	CreatedName string    `json:"createdByDisplayName"`
	Created     time.Time `json:"creationTimeDateTimeUtc"`
	Updated     time.Time `json:"lastUpdateTime"`
	UpdatedBy   string    `json:"lastUpdatedBy"`
	indicatorOrder
}

// An indicatorOrder is the body of POST, and an item of an import. What isn't
// checked below is optional here, and null where it is absent.
type indicatorOrder struct {
	Value              string   `json:"indicatorValue"`
	Type               string   `json:"indicatorType"`
	Action             string   `json:"action"`
	Application        *string  `json:"application"`
	Title              string   `json:"title"`
	Description        string   `json:"description"`
	Severity           *string  `json:"severity"`
	Expiration         *string  `json:"expirationTime"`
	RecommendedActions *string  `json:"recommendedActions"`
	Groups             []string `json:"rbacGroupNames"`
	GroupIDs           []string `json:"rbacGroupIds"`
	GenerateAlert      bool     `json:"generateAlert"`
	ExternalID         *string  `json:"externalId"`
}

// indicatorList is the list of indicators, with the documented filters.
func (t *tenant) indicatorList() listing[indicator] {
	return listing[indicator]{
		context: "Indicators", rules: t.mdeRules(),
		properties: []property[indicator]{
			{"indicatorValue", text, func(i *indicator) value { return textValue(i.Value) }, ""},
			{"indicatorType", text, func(i *indicator) value { return textValue(i.Type) }, ""},
			{"action", text, func(i *indicator) value { return textValue(i.Action) }, ""},
			{"application", text, func(i *indicator) value { return maybe(i.Application, textValue) }, ""},
			{"title", text, func(i *indicator) value { return textValue(i.Title) }, ""},
			{"severity", text, func(i *indicator) value { return maybe(i.Severity, textValue) }, ""},
			{"createdBy", text, func(i *indicator) value { return textValue(i.CreatedBy) }, ""},
			{"createdByDisplayName", text, func(i *indicator) value { return textValue(i.CreatedName) }, ""},
			{"creationTimeDateTimeUtc", moment, func(i *indicator) value { return timeValue(i.Created) },
				""},
			{"expirationTime", moment, (*indicator).expires, ""},
			{"generateAlert", boolean, func(i *indicator) value {
				return value{kind: boolean, known: true, text: strconv.FormatBool(i.GenerateAlert)}
			}, ""},
			{"rbacGroupNames", collection, func(i *indicator) value { return listValue(i.Groups) }, ""},
			{"rbacGroupIds", collection, func(i *indicator) value { return listValue(i.GroupIDs) }, ""},
		},
	}
}

// expires is the expiration as a time; it was checked when it came in.
func (i *indicator) expires() value {
	if i.Expiration == nil {
		return value{}
	}
	at, _ := time.Parse(time.RFC3339, *i.Expiration)
	return timeValue(at)
}

// An indicatorKey is what makes two indicators the same one. Submitting is
// documented as "submit or update", which makes a retry safe.
type indicatorKey struct{ value, kind string }

// check finds what the service wouldn't take. Its messages are observed ones
// where there are any, spelling included.
func (o indicatorOrder) check(now time.Time) error {
	switch {
	case o.Value == "":
		return errInvalid("Recieved an empty indicator value.")
	case strings.ContainsAny(o.Value, "\r\n"): // would split the ledger's line
		return errInvalid("Invalid input: indicatorValue has a line break")
	case o.Type == "":
		return errMissing("indicatorType")
	case o.Action == "":
		return errMissing("action")
	}
	if err := checkValue(o.Type, o.Value); err != nil {
		return err
	}
	if o.Expiration == nil || *o.Expiration == "" {
		return nil
	}
	expires, err := time.Parse(time.RFC3339, *o.Expiration)
	if err != nil {
		return errInvalid("Invalid input %s: expirationTime is a date and time such as 2030-12-31T00:00:00Z", *o.Expiration)
	}
	if !expires.After(now) {
		return problem{http.StatusBadRequest, "BadRequest",
			fmt.Sprintf("Indicator %s is inactive. (Expiration time should be set to a future date time)", o.Value)}
	}
	return nil
}

// checkValue finds values of a wrong form with the documented codes. It is no
// stricter than a typing error calls for.
func checkValue(kind, value string) error {
	invalid := func(code, what string) error {
		return problem{http.StatusBadRequest, code, "Invalid " + what + " " + value}
	}
	switch kind {
	case "FileSha1", "CertificateThumbprint":
		return checkHash(value, 40)
	case "FileSha256":
		return checkHash(value, 64)
	case "FileMd5":
		return checkHash(value, 32)
	case "IpAddress":
		if _, err := netip.ParseAddr(value); err != nil {
			return invalid("InvalidIpAddress", "IP address")
		}
	case "DomainName":
		if strings.ContainsAny(value, " /:@") {
			return invalid("InvalidDomainName", "domain name")
		}
	case "Url":
		if strings.Contains(value, " ") {
			return invalid("InvalidUrl", "URL")
		}
	default:
		return errInvalid("Invalid input %s: indicatorType is FileSha1, FileSha256, FileMd5, CertificateThumbprint, IpAddress, DomainName or Url", kind)
	}
	return nil
}

// checkHash wants so many hexadecimal digits, of either case.
func checkHash(value string, digits int) error {
	if _, err := hex.DecodeString(value); err != nil || len(value) != digits {
		return problem{http.StatusBadRequest, "InvalidHashValue", "Invalid hash value " + value}
	}
	return nil
}

// put submits an indicator, or updates the one of the same value and type.
func (t *tenant) put(o indicatorOrder, now time.Time) (*indicator, error) {
	if err := o.check(now); err != nil {
		return nil, err
	}
	if o.Expiration != nil && *o.Expiration == "" {
		o.Expiration = nil
	}
	// Never null on the wire.
	o.Groups, o.GroupIDs = append([]string{}, o.Groups...), append([]string{}, o.GroupIDs...)
	key := indicatorKey{o.Value, o.Type}
	if known := t.indicatorOf[key]; known != nil {
		o.Application = known.Application // documented as applying to new indicators only
		known.indicatorOrder, known.Updated = o, now
		return known, nil
	}
	if n := len(t.indicators); n >= maxIndicators {
		return nil, problem{http.StatusBadRequest, "BadRequest",
			fmt.Sprintf("Max capacity exceeded. Current Total: %d, Limit: %d (Parameter 'Capacity: %d/%d')", n, maxIndicators, n, maxIndicators)}
	}
	t.indicatorID++
	i := &indicator{
		ID: strconv.Itoa(t.indicatorID), Created: now, Updated: now, indicatorOrder: o,
		Source: requestor, SourceType: "AadApp", CreatedName: requestor, UpdatedBy: requestor,
		CreatedBy: guidOf("application", 1),
	}
	t.indicators = append(t.indicators, i)
	t.indicatorByID[i.ID] = i
	t.indicatorOf[key] = i
	return i, nil
}

// remove forgets indicators and returns the effects. One that is named twice is
// deleted once.
func (t *tenant) remove(all ...*indicator) (effects []string) {
	gone := make(map[*indicator]bool)
	for _, i := range all {
		if gone[i] {
			continue
		}
		gone[i] = true
		delete(t.indicatorByID, i.ID)
		delete(t.indicatorOf, indicatorKey{i.Value, i.Type})
		effects = append(effects, "delete "+i.ID)
	}
	t.indicators = slices.DeleteFunc(t.indicators, func(i *indicator) bool { return gone[i] })
	return effects
}

// listIndicators lists the oldest first, expired ones included: an indicator is
// checked once, when it comes in.
func (t *tenant) listIndicators(r request) (answer, error) {
	return t.indicatorList().answer(r, values(t.indicators))
}

// submitIndicator is refused as a whole, other than an import. A value that
// isn't there is told as a missing parameter, for there are no items to confuse.
func (t *tenant) submitIndicator(r request) (answer, error) {
	var o indicatorOrder
	if err := decode(r.body, &o); err != nil {
		return answer{}, err
	}
	if o.Value == "" {
		return answer{}, errMissing("indicatorValue")
	}
	i, err := t.put(o, time.Now().UTC())
	if err != nil {
		return answer{}, err
	}
	return single(r, http.StatusOK, "Indicators/$entity", i, "submit "+i.Value), nil
}

// An importResult is what an import says of one indicator.
type importResult struct {
	ID            *string `json:"id"` // null if it failed
	Indicator     string  `json:"indicator"`
	IsFailed      bool    `json:"isFailed"`
	FailureReason *string `json:"failureReason"` // null unless it failed
}

// importIndicators answers 200 whatever becomes of the single indicators: who
// looks at the status alone loses the failed ones.
func (t *tenant) importIndicators(r request) (answer, error) {
	orders, err := decodeImport(r.body)
	if err != nil {
		return answer{}, err
	}
	results := make([]importResult, len(orders))
	var effects []string
	now := time.Now().UTC()
	for n, o := range orders {
		results[n].Indicator = o.Value
		i, err := t.put(o, now)
		if err != nil {
			reason := err.Error()
			results[n].IsFailed, results[n].FailureReason = true, &reason
			continue
		}
		results[n].ID = &i.ID
		effects = append(effects, "import "+i.Value)
	}
	body := struct {
		Context string         `json:"@odata.context"`
		Value   []importResult `json:"value"`
	}{r.metadata("Collection(microsoft.windowsDefenderATP.api.ImportIndicatorResult)"), results}
	return done(http.StatusOK, body, effects...), nil
}

// decodeImport decodes the items one by one, since the case of their keys
// matters too.
func decodeImport(body []byte) ([]indicatorOrder, error) {
	var batch struct {
		Indicators []json.RawMessage `json:"Indicators"`
	}
	if err := decode(body, &batch); err != nil {
		return nil, err
	}
	if batch.Indicators == nil {
		return nil, errMissing("Indicators")
	}
	if n := len(batch.Indicators); n > maxBatch {
		return nil, errBatchSize(n, maxBatch)
	}
	orders := make([]indicatorOrder, len(batch.Indicators))
	for i, item := range batch.Indicators {
		if err := decode(item, &orders[i]); err != nil {
			return nil, err
		}
	}
	return orders, nil
}

// deleteIndicator answers the second time 404, which after a lost first answer
// is as good as a success.
func (t *tenant) deleteIndicator(r request) (answer, error) {
	i, err := lookup(t.indicatorByID, "Indicator", r.id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent, effects: t.remove(i)}, nil
}

// deleteIndicators deletes nothing if one is unknown: 404 is documented, whether
// the others are deleted isn't.
func (t *tenant) deleteIndicators(r request) (answer, error) {
	var batch struct {
		IDs []string `json:"IndicatorIds"`
	}
	if err := decode(r.body, &batch); err != nil {
		return answer{}, err
	}
	if n := len(batch.IDs); n > maxBatch {
		return answer{}, errBatchSize(n, maxBatch)
	}
	gone, err := lookupAll(t.indicatorByID, "Indicator", "IndicatorIds", batch.IDs)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent, effects: t.remove(gone...)}, nil
}
