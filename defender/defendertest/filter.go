package defendertest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of a $filter. What it costs grows with its length and with the number of items, so
// that neither may grow with the other: a filter of half a megabyte on 10,000 machines would hold
// the tenant for minutes.
const (
	maxComparisons = 1000
	maxNesting     = 100
)

// A kind is what a property's values are.
type kind uint8

const (
	text kind = iota
	number
	moment
	boolean
	enumeration // text of which all values are known
	collection  // of texts
	numberText  // a number that the documentation has as a text in other places
)

// String is OData's name for it.
func (k kind) String() string {
	return [...]string{"Edm.String", "Edm.Int64", "Edm.DateTimeOffset", "Edm.Boolean", "Enum",
		"Collection(Edm.String)", "Edm.Int64"}[k]
}

// A value is one of a property. The zero value is null.
type value struct {
	kind   kind
	known  bool // false: null
	text   string
	number float64
	at     time.Time
	list   []string
}

func textValue(s string) value      { return value{kind: text, known: true, text: s} }
func enumValue(s string) value      { return value{kind: enumeration, known: true, text: s} }
func numberValue(n int) value       { return value{kind: number, known: true, number: float64(n)} }
func timeValue(t time.Time) value   { return value{kind: moment, known: true, at: t} }
func listValue(list []string) value { return value{kind: collection, known: true, list: list} }
func maybe[T any](p *T, of func(T) value) value {
	if p == nil {
		return value{}
	}
	return of(*p)
}

// compare orders two values of one kind, null before all others.
func (v value) compare(w value) int {
	switch {
	case !v.known || !w.known:
		return cmp.Compare(b2i(v.known), b2i(w.known))
	case v.kind == number || v.kind == numberText:
		return cmp.Compare(v.number, w.number)
	case v.kind == moment:
		return v.at.Compare(w.at)
	}
	return cmp.Compare(v.text, w.text)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A property is what a list can be filtered and ordered by.
type property[T any] struct {
	name    string
	kind    kind
	of      func(*T) value
	members string // of an enumeration, between blanks
}

// A predicate is a $filter that was read. The element is that of the collection which an any()
// around it looks through.
type predicate[T any] func(item *T, element string) bool

// A parser reads a $filter once, from left to right. Of OData's language it knows what the
// documentation uses: comparisons, startswith, any, and, or, not, parentheses. What it doesn't
// know is an error, and never a filter that lets too much pass.
type parser[T any] struct {
	properties []property[T]
	whole      string
	rest       string
	token      string // "" at the end; a text begins with its quote and has lost the closing one
	failure    error

	variable    string // of the any() around, or ""
	comparisons int
	nesting     int
}

// parseFilter returns nil for a filter that is empty: it accepts everything.
func parseFilter[T any](properties []property[T], filter string) (predicate[T], error) {
	p := &parser[T]{properties: properties, whole: filter, rest: filter}
	if p.next(); p.failure == nil && p.token == "" {
		return nil, nil
	}
	accepts := p.disjunction()
	if p.failure == nil && p.token != "" {
		p.fail("Syntax error: '%s' isn't expected in '%s'.", shown(p.token), shown(p.whole))
	}
	if p.failure != nil {
		return nil, p.failure
	}
	return accepts, nil
}

// fail keeps the first error, and ends the text.
func (p *parser[T]) fail(format string, arguments ...any) {
	if p.failure == nil {
		p.failure = errOData(format, arguments...)
	}
	p.rest, p.token = "", ""
}

// shown bounds what an error repeats of a filter.
func shown(text string) string {
	const most = 200
	if len(text) <= most {
		return strings.ToValidUTF8(text, "\ufffd")
	}
	return strings.ToValidUTF8(text[:most], "\ufffd") + "…"
}

// next reads a token. Each byte is looked at once.
func (p *parser[T]) next() {
	if p.failure != nil {
		return
	}
	p.rest = strings.TrimLeft(p.rest, " \t")
	switch {
	case p.rest == "":
		p.token = ""
	case p.rest[0] == '\'':
		p.quoted()
	case strings.IndexByte("(),:/", p.rest[0]) >= 0:
		p.token, p.rest = p.rest[:1], p.rest[1:]
	default:
		// A time has colons; a name before one is the variable of any().
		stop := "(),:/' \t"
		if first := p.rest[0]; first >= '0' && first <= '9' {
			stop = "(),/' \t"
		}
		end := strings.IndexAny(p.rest, stop)
		if end < 0 {
			end = len(p.rest)
		}
		p.token, p.rest = p.rest[:end], p.rest[end:]
	}
}

// quoted reads a text, in which a doubled quote is one.
func (p *parser[T]) quoted() {
	var word strings.Builder
	word.WriteByte('\'')
	for rest := p.rest[1:]; ; {
		part, after, found := strings.Cut(rest, "'")
		if !found {
			p.fail("Syntax error: unterminated string literal in '%s'.", shown(p.whole))
			return
		}
		word.WriteString(part)
		if !strings.HasPrefix(after, "'") {
			p.token, p.rest = word.String(), after
			return
		}
		word.WriteByte('\'')
		rest = after[1:]
	}
}

// take reads the token that must come next.
func (p *parser[T]) take(want string) {
	if p.token != want {
		p.fail("Syntax error: '%s' expected in '%s'.", want, shown(p.whole))
		return
	}
	p.next()
}

// deeper counts what stands in something else. The caller takes it back.
func (p *parser[T]) deeper() {
	if p.nesting++; p.nesting > maxNesting {
		p.fail("The depth limit of '%d' for $filter has been exceeded.", maxNesting)
	}
}

func (p *parser[T]) disjunction() predicate[T] {
	return p.chain("or", p.conjunction, func(all []predicate[T], item *T, element string) bool {
		return slices.ContainsFunc(all, func(one predicate[T]) bool { return one(item, element) })
	})
}

func (p *parser[T]) conjunction() predicate[T] {
	return p.chain("and", p.single, func(all []predicate[T], item *T, element string) bool {
		return !slices.ContainsFunc(all, func(one predicate[T]) bool { return !one(item, element) })
	})
}

// chain reads operands with one operator between them.
func (p *parser[T]) chain(
	operator string, operand func() predicate[T], join func([]predicate[T], *T, string) bool,
) predicate[T] {
	all := []predicate[T]{operand()}
	for p.token == operator {
		p.next()
		all = append(all, operand())
	}
	if len(all) == 1 {
		return all[0]
	}
	return func(item *T, element string) bool { return join(all, item, element) }
}

// single reads what and and or stand between.
func (p *parser[T]) single() predicate[T] {
	switch p.token {
	case "not":
		p.deeper()
		p.next()
		inner := p.single()
		p.nesting--
		return func(item *T, element string) bool { return !inner(item, element) }
	case "(":
		p.deeper()
		p.next()
		inner := p.disjunction()
		p.take(")")
		p.nesting--
		return inner
	case "startswith":
		return p.startsWith()
	}
	return p.comparison()
}

// operand reads a property, or the variable of any(), and says how to look it up.
func (p *parser[T]) operand() (name property[T], of func(*T, string) value) {
	word := p.token
	p.next()
	if p.variable != "" && word == p.variable {
		name = property[T]{name: word, kind: text}
		return name, func(_ *T, element string) value { return textValue(element) }
	}
	// The documentation itself writes names in either case.
	i := slices.IndexFunc(p.properties,
		func(q property[T]) bool { return strings.EqualFold(q.name, word) })
	if i < 0 {
		p.fail("Could not find a property named '%s' that $filter supports.",
			shown(strings.TrimPrefix(word, "'")))
		return property[T]{}, func(*T, string) value { return value{} }
	}
	found := p.properties[i]
	return found, func(item *T, _ string) value { return found.of(item) }
}

// startsWith reads the one function that the documentation has an example of.
func (p *parser[T]) startsWith() predicate[T] {
	p.count()
	p.next()
	p.take("(")
	name, of := p.operand()
	p.take(",")
	prefix := p.literal(text)
	p.take(")")
	if p.failure == nil && name.kind != text {
		p.fail("No function signature for the function with name 'startswith' matches '%s'.", name.kind)
	}
	return func(item *T, element string) bool {
		v := of(item, element)
		return v.known && strings.HasPrefix(v.text, prefix.text)
	}
}

// count bounds the comparisons.
func (p *parser[T]) count() {
	if p.comparisons++; p.comparisons > maxComparisons {
		p.fail("The node count limit of '%d' for $filter has been exceeded.", maxComparisons)
	}
}

// comparison reads a property, an operator and a constant, or the any() of a collection.
func (p *parser[T]) comparison() predicate[T] {
	p.count()
	name, of := p.operand()
	if p.token == "/" && p.failure == nil {
		return p.any(name, of)
	}
	operator := p.token
	if !oneOf(operator, "eq ne gt ge lt le") {
		p.fail("Syntax error: operator '%s' isn't known in '%s'.", shown(operator), shown(p.whole))
	}
	p.next()
	constant := p.literal(name.kind)
	if p.failure == nil {
		p.check(name, operator, constant)
	}
	return func(item *T, element string) bool {
		v := of(item, element)
		switch order := v.compare(constant); operator {
		case "eq":
			return order == 0
		case "ne":
			return order != 0
		case "gt":
			return order > 0 && v.known && constant.known
		case "ge":
			return order >= 0 && v.known && constant.known
		case "lt":
			return order < 0 && v.known && constant.known
		default:
			return order <= 0 && v.known && constant.known
		}
	}
}

// check refuses constants that aren't of the property's kind, as OData does.
func (p *parser[T]) check(name property[T], operator string, constant value) {
	switch {
	case name.kind == collection || constant.known && constant.kind != name.kind:
		p.fail("A binary operator with incompatible types was detected. Found operand types '%s' and '%s' for operator '%s'.",
			name.kind, constant.kind, operator)
	case name.kind == enumeration && constant.known && !oneOf(constant.text, name.members):
		p.fail("The string '%s' is not a valid enumeration type constant of '%s'.", shown(constant.text),
			name.name)
	}
}

// any reads a lambda, as in machineTags/any(tag: tag eq 'x'). In another one none is allowed.
func (p *parser[T]) any(name property[T], of func(*T, string) value) predicate[T] {
	p.next()
	if p.token != "any" || name.kind != collection || p.variable != "" {
		p.fail("Syntax error: '%s' isn't expected in '%s'.", shown(p.token), shown(p.whole))
	}
	p.next()
	p.take("(")
	if p.variable = p.token; p.variable == "" || strings.IndexByte("(),:/'", p.variable[0]) >= 0 {
		p.fail("Syntax error: a variable is expected in '%s'.", shown(p.whole))
	}
	p.next()
	p.take(":")
	inner := p.disjunction()
	p.variable = ""
	p.take(")")
	return func(item *T, _ string) bool {
		return slices.ContainsFunc(of(item, "").list,
			func(element string) bool { return inner(item, element) })
	}
}

// literal reads a constant for a property of a kind.
func (p *parser[T]) literal(wanted kind) value {
	word := p.token
	if word == "" {
		p.fail("Syntax error: expression expected in '%s'.", shown(p.whole))
		return value{}
	}
	p.next()
	if quoted, ok := strings.CutPrefix(word, "'"); ok {
		v := textValue(quoted)
		if wanted == enumeration {
			v.kind = enumeration
		}
		if n, err := strconv.ParseFloat(quoted, 64); wanted == numberText && err == nil {
			v.kind, v.number = numberText, n
		}
		return v
	}
	switch {
	case word == "null":
		return value{}
	case word == "true", word == "false":
		return value{kind: boolean, known: true, text: word}
	case isGUID(word):
		return textValue(word)
	}
	// The documentation has a date with a Z, and no time.
	for _, layout := range []string{time.RFC3339, "2006-01-02Z07:00", time.DateOnly} {
		if at, err := time.Parse(layout, word); err == nil {
			return timeValue(at)
		}
	}
	if n, err := strconv.ParseInt(word, 10, 64); err == nil {
		v := value{kind: number, known: true, number: float64(n)}
		if wanted == numberText {
			v.kind = numberText
		}
		return v
	}
	p.fail("Could not find a property named '%s'.", shown(word))
	return value{}
}

// isGUID reports whether a word is one without quotes.
func isGUID(word string) bool {
	parts := strings.Split(word, "-")
	if len(word) != 36 || len(parts) != 5 {
		return false
	}
	for i, n := range [...]int{8, 4, 4, 4, 12} {
		if len(parts[i]) != n || strings.Trim(parts[i], "0123456789abcdefABCDEF") != "" {
			return false
		}
	}
	return true
}

// oneOf reports whether a word is one of those in a list, and not several of them.
func oneOf(word, list string) bool { return slices.Contains(strings.Fields(list), word) }
