// Package redisquota shares a quota.Quota between processes, through Redis.
package redisquota
