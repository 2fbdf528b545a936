package redistest

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
)

// FixedWindow and SlidingLog are how most programs share a limit through Redis. Both let too many
// through, each for a reason of its own: with them a test sees that the bed would notice.
type FixedWindow struct {
	Client  redis.UniversalClient
	Windows []quota.Window
}

var fixedWindow = redis.NewScript(`
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
for i, key in ipairs(KEYS) do
	local n, per = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
	local at = us - us % per
	if tonumber(redis.call('HGET', key, 'at') or 0) ~= at then
		redis.call('HSET', key, 'at', string.format('%.0f', at), 'n', 0)
	end
	if tonumber(redis.call('HGET', key, 'n')) >= n then
		return at + per - us
	end
end
for _, key in ipairs(KEYS) do
	redis.call('HINCRBY', key, 'n', 1)
end
return 0`)

// Enter implements steadyhttp.Gate.
func (f *FixedWindow) Enter(ctx context.Context, _ steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return nil, poll(ctx, f.Client, fixedWindow, f.Windows)
}

// SlidingLog counts exactly while Redis remembers. It counts a call when it is let go, and not when
// it arrives.
type SlidingLog struct {
	Client  redis.UniversalClient
	Windows []quota.Window
}

var slidingLog = redis.NewScript(`
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local id = redis.call('INCR', KEYS[1] .. ':id')
for i, key in ipairs(KEYS) do
	local n, per = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
	redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', us - per))
	if redis.call('ZCARD', key) >= n then
		local oldest = redis.call('ZRANGE', key, -n, -n, 'WITHSCORES')
		return oldest[2] + per - us
	end
end
for _, key in ipairs(KEYS) do
	redis.call('ZADD', key, string.format('%.0f', us), id)
end
return 0`)

// Enter implements steadyhttp.Gate.
func (s *SlidingLog) Enter(ctx context.Context, _ steadyhttp.Attempt) (steadyhttp.Pass, error) {
	return nil, poll(ctx, s.Client, slidingLog, s.Windows)
}

func poll(ctx context.Context, client redis.UniversalClient, script *redis.Script, windows []quota.Window) error {
	var keys []string
	var args []any
	for _, w := range windows {
		keys = append(keys, "{control}:"+w.Per.String())
		args = append(args, w.N, w.Per.Microseconds())
	}
	for {
		wait, err := script.Run(ctx, client, keys, args...).Int64()
		if err == nil && wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(max(time.Duration(wait)*time.Microsecond, time.Millisecond), 50*time.Millisecond)):
		}
	}
}
