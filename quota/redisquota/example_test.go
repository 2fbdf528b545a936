package redisquota_test

import (
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/steadyhttp/steadyhttp"
	"github.com/steadyhttp/steadyhttp/quota"
	"github.com/steadyhttp/steadyhttp/quota/redisquota"
)

// All processes that do so send at most 100 calls a minute together.
func Example() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	shared := &redisquota.Quota{
		Client:  client,
		Key:     "machines",
		Windows: []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}},
	}
	defer shared.Close() // tells Redis: the others need not wait for this process
	_ = &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{shared}}}
}

// What makes gates of keys makes shared ones: defender.Config.NewGate takes it as it is.
func ExampleFor() {
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer client.Close()
	newGate := redisquota.For(client)
	gate := newGate("tenant app machines", &quota.Quota{Windows: []quota.Window{{N: 45, Per: time.Minute}}})
	_ = &http.Client{Transport: &steadyhttp.Transport{Gates: []steadyhttp.Gate{gate}}}
}
