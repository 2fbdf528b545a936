package steadyotel

import (
	"context"
	"errors"
	"iter"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/steadyhttp/steadyhttp/quota"
)

// ObserveQuotas makes gauges of quotas: used, free and limit of each window, and the calls that
// wait in line. quotas must yield each quota's name with its state, and is ranged over at each
// collection. Give it defender.Quotas(transport), or for a quota of your own:
//
//	steadyotel.ObserveQuotas(steadyotel.Config{}, func(yield func(string, quota.State) bool) {
//		yield("machines", machines.State())
//	})
//
// Each name is a label: keep them few. Quotas of several Transports must have different names, say
// with the tenant's in front: of two with the same name, one is lost. free follows what the server
// says, and is never negative. ObserveQuotas uses only c's MeterProvider. Unregister ends the
// observation.
func ObserveQuotas(c Config, quotas iter.Seq2[string, quota.State]) (metric.Registration, error) {
	if quotas == nil {
		return nil, errors.New("steadyotel: ObserveQuotas needs quotas to observe; " +
			"give it defender.Quotas(transport), or a function that yields names and states")
	}
	meter := meterOf(c)
	used, usedErr := meter.Int64ObservableGauge("steadyhttp.quota.used", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that the service still counts, as far as is known."))
	free, freeErr := meter.Int64ObservableGauge("steadyhttp.quota.free", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that could be sent now."))
	limit, limitErr := meter.Int64ObservableGauge("steadyhttp.quota.limit", metric.WithUnit("{request}"),
		metric.WithDescription("The quota, or less if the service has said so or others share it."))
	waiting, waitingErr := meter.Int64ObservableGauge("steadyhttp.quota.waiting", metric.WithUnit("{call}"),
		metric.WithDescription("Calls in line."))
	if err := errors.Join(usedErr, freeErr, limitErr, waitingErr); err != nil {
		return nil, err
	}
	// One callback for all, so that used and free are of the same moment.
	observe := func(_ context.Context, o metric.Observer) error {
		for name, state := range quotas {
			key := attribute.String("steadyhttp.quota.name", text(name))
			o.ObserveInt64(waiting, int64(state.Waiting), metric.WithAttributes(key))
			for _, w := range state.Windows {
				labels := metric.WithAttributes(key, attribute.String("steadyhttp.quota.window", windowName(w.Per)))
				o.ObserveInt64(used, int64(w.Used), labels)
				o.ObserveInt64(free, int64(w.Free), labels)
				o.ObserveInt64(limit, int64(w.Limit), labels)
			}
		}
		return nil
	}
	return meter.RegisterCallback(observe, used, free, limit, waiting)
}

// windowName returns "minute" and the like, or the duration where there is no such word.
func windowName(per time.Duration) string {
	switch per {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return per.String()
}
