package redisquota

import (
	"errors"
	"time"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/internal/ledger"
)

// What a process does by itself while Redis is away.

// goAway is called when there was no answer for too long.
func (e *engine) goAway(now time.Duration) {
	e.away = true
	if e.left {
		e.hasWord = false // others count without this process
	}
	for c := range e.line {
		e.line[c] = standing{}
	}
}

// waitedError is the end of a caller's context, and why he still stood in line.
type waitedError struct {
	ended error
	why   *steadyhttp.Refusal
}

func (e *waitedError) Error() string   { return e.ended.Error() + "; " + e.why.Error() }
func (e *waitedError) Unwrap() []error { return []error{e.ended, e.why} }

// whyWaited adds to the end of a caller's context that Redis is to blame, where it is: of a context
// that has ended alone, nobody would look for it there.
func (e *engine) whyWaited(ended error) error {
	if e.host == nil {
		return ended
	}
	e.host.Lock()
	away, last := e.away, e.lastError
	e.host.Unlock()
	switch {
	case last != nil:
		// Its text alone: a timeout of Redis is none of the caller's.
		return &waitedError{ended, &steadyhttp.Refusal{
			Err: errors.New("redisquota: no answer from Redis: " + steadyhttp.RedactError(last)),
		}}
	case away:
		return &waitedError{ended, &steadyhttp.Refusal{Err: errors.New("redisquota: no answer from Redis")}}
	}
	return ended
}

// mayAlone says whether a call may go without a grant.
func (e *engine) mayAlone(places int, now time.Duration) bool {
	if e.conf.WhenAway == Open {
		return true // this process' own windows are kept in any case
	}
	if e.conf.WhenAway == Closed || !e.hasWord {
		return false
	}
	for i, l := range e.host.Limits() {
		n, own := l.N, e.loose // Known's
		if e.conf.WhenAway == Known && now < e.word.at+l.Per+e.tune.transit {
			// What was under way by then may have been counted later.
			n -= e.word.used[i]
			for _, one := range e.alone {
				if one.at > now-l.Per {
					own += one.n
				}
			}
		} else {
			own = e.host.InFlight() + e.sentSince(now-l.Per)
		}
		if own+places > max(0, n)/max(1, e.word.among) {
			return false
		}
	}
	return true
}

func (e *engine) sentSince(since time.Duration) (n int) {
	for c := range ledger.Classes {
		e.host.Log(c, 0, func(at time.Duration, k int) bool {
			if at <= since {
				return false
			}
			n += k
			return true
		})
	}
	return n
}

// forget drops what no window counts any more: Redis may be away for long.
func (e *engine) forget(now time.Duration) {
	longest := time.Duration(0)
	for _, w := range e.windows {
		longest = max(longest, w.Per)
	}
	before := now - longest - 2*time.Second // a pad is shorter than that, or a thousandth
	before -= longest / 1000
	for len(e.alone) > 0 && e.alone[0].at < before {
		e.alone = e.alone[1:]
	}
	for c := range e.raise {
		for len(e.raise[c]) > 0 && e.raise[c][0].at < before {
			e.raise[c] = e.raise[c][1:]
		}
	}
}
