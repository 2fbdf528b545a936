module github.com/steadyhttp/steadyhttp/quota/redisquota/internal/peers

go 1.26.0

require (
	github.com/go-redis/redis_rate/v10 v10.0.1
	github.com/steadyhttp/steadyhttp v0.1.0
	github.com/steadyhttp/steadyhttp/quota/redisquota v0.0.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace (
	github.com/steadyhttp/steadyhttp => ../../../..
	github.com/steadyhttp/steadyhttp/quota/redisquota => ../..
)
