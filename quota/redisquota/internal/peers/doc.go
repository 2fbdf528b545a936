// Package peers measures redisquota beside redis_rate. It is a module of its own, so that nobody
// else has to download what is only compared with.
package peers
