package quota

import "context"

// Priority says who goes first.
type Priority int8

const (
	Normal Priority = iota // the zero value
	High                   // passes all normal calls, and may use what Quota.Reserve keeps
)

type priorityKey struct{}

// WithPriority returns a context whose calls have a priority in every Quota they meet.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

func classOf(ctx context.Context) class {
	if p, ok := ctx.Value(priorityKey{}).(Priority); ok && p >= High {
		return high
	}
	return normal
}
