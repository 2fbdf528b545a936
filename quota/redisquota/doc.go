// Package redisquota shares a quota.Quota between processes, through Redis: ten pods with one
// application keep to its 100 calls a minute together.
//
//	gate := &redisquota.Quota{Client: client, Key: "machines", Windows: []quota.Window{
//		{N: 100, Per: time.Minute},
//		{N: 1500, Per: time.Hour},
//	}}
//
// It is a steadyhttp.Gate with the windows, priorities, deadlines and trace of a quota.Quota, and
// defender.Config.NewGate: redisquota.For(client) shares all quotas of a tenant and application.
//
// # How it counts
//
// A process asks Redis for places when it has callers that wait. Redis keeps the time of each call, by
// its own clock, and counts a call from its grant until a window after its answer. Only the first
// caller of each process stands in Redis' line, and is told when to ask again, so that a waiting
// process does not poll. What a call has come to travels with the next question.
//
// # What is promised
//
// At most N calls in any interval of length W, as the service counts them, over all processes, while
//
//   - each call arrives within MaxTransit of its sending, as in package quota;
//   - no process is suspended between Enter and sending for more than 5 s, when it is thought dead (a
//     stopped container, a machine that sleeps), and one that can't reach Redis sends what it was granted within 5 s, or
//     within MaxTransit + 3 s if that is longer. Nobody can call such a request back; it may be one too
//     many for each place that was granted and not sent;
//   - all processes give the same Windows, Reserve and MaxTransit for a Key.
//
// Messages that are lost, delivered twice, late or out of order do not change that, nor do clocks of processes
// that are wrong or set. Redis' own may be set, by more than 0.1 s and four round trips: a shorter step
// forward is not always seen, and where it is not, calls may go earlier by as much. If it is set forward
// again within 4 s, the time is cut short in which all tell what they have sent: some may not be in it.
//
// # Redis loses its state
//
// A flush, a restart without a log, a failover to a replica that lacks the last second, the eviction of
// a key, a clock that was set: each is noticed, a failover by INFO. Then nobody goes for 2.5 s, in which every process
// tells what it has sent, and what it has last heard of all. The promise holds if each process that has
// calls in a window reaches Redis within that time, or is dead and was heard of by one that lives. A
// failover is noticed where the user may run INFO; where not, calls may be too many that were granted
// in the lost second to processes that have not asked again.
//
// A Key that Redis does not know can't be told from one that it has lost: the first call of a new quota
// waits for 2.5 s too. Start: Empty spares that, on your word.
//
// # Redis is away
//
// After 1.5 s without an answer, WhenAway decides:
//
//	Closed   nobody goes. Never over.
//	Known    each process takes its part of what was left at Redis' last word to it, and a window
//	         later its part of the limit: N, and what others were granted since that word, at most a
//	         heartbeat (1 s) before.
//	Share    each takes its part of the limit at once: at most 2N - N/P in the one window that spans the
//	         loss, with P processes.
//	Open     each takes all of it: P x N.
//
// With a part of less than one call, N < P, nobody goes. A process that has not heard of Redis since it
// began, or since it was last idle, knows of no part, and waits.
//
// A process that is cut off alone, while others reach Redis, can't know that it is: with Known and
// Share, it takes its part while the others take all, N x (1 + cut/P) for as long as the cut lasts. Only
// Closed avoids that. When Redis is back, those who have gone alone tell of it first, and nobody goes
// for 2.5 s.
//
// # A 429 all the same
//
// It pauses all processes until its time, and each begins again with one call. A limit that its text
// names, and the share that is left where others use the quota too, are taken over by all.
//
// # What it costs
//
// About one exchange with Redis for each call where all places are taken, fewer where many may go at
// once, and one a second for each process that has calls in a window. An idle Quota costs nothing: its
// goroutine is gone, and its keys expire about a minute and a half after the longest window. Redis
// keeps about 110 bytes for each call of the longest window, twice that with a Reserve.
//
// Close tells Redis that a process ends, and refuses those who still wait. Without it, the others notice
// after 5 s, and what it had under way is counted until then.
//
// # Redis
//
// Redis 6.2 or later; tested with 7.0 and Valkey 8.0. All keys of a quota are in one slot. What net/http sends twice on
// its own takes a place of its own over HTTP/1.1; over HTTP/2 it is counted once it is under way, in all
// processes.
package redisquota
