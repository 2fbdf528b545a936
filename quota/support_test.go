package quota

import (
	"context"

	"github.com/steadyhttp/steadyhttp"
)

// enter is Enter for those who look into the ticket.
func (q *Quota) enter(ctx context.Context, a steadyhttp.Attempt) (*ticket, error) {
	pass, err := q.Enter(ctx, a)
	t, _ := pass.(*ticket)
	return t, err
}
