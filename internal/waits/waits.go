// Package waits is how a gate outside of the root package announces a wait that is not one of Enter's:
// that of net/http's own replay of a request.
package waits

import (
	"context"
	"time"
)

// Announcer is told of a wait before it begins, with what gives its length. It asks only if somebody
// wants to know.
type Announcer interface {
	Announce(length func() time.Duration)
}

type key struct{}

// With returns a context whose waits a is told of.
func With(ctx context.Context, a Announcer) context.Context {
	return context.WithValue(ctx, key{}, a)
}

// Of returns the Announcer of a context; nil: nobody wants to know.
func Of(ctx context.Context) Announcer {
	a, _ := ctx.Value(key{}).(Announcer)
	return a
}

// Announce tells of a wait in a context.
func Announce(ctx context.Context, length func() time.Duration) {
	if a := Of(ctx); a != nil {
		a.Announce(length)
	}
}
