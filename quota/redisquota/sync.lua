-- One exchange of a process with the ledger of one quota. All times are in microseconds.
local LOG, NORMAL, LINE, SEEN, HEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, at = redis.call, 0
local function text() at = at + 1; return ARGV[at] end
local function number() return tonumber(text()) end
-- tostring has 14 digits only, and a time has 16.
local function str(x) return string.format('%.0f', x) end

local me, seq, acked, epoch, flags = text(), number(), number(), text(), text()
local lease, dead, learning, grace = number(), number(), number(), number()
local silence, delay = number(), number()
local want, need = {h = 0, n = 0}, {h = 0, n = 0}
want.h, need.h, want.n, need.n = number(), number(), number(), number()
local windows, span = {}, 0
for i = 1, number() do
  local w = {n = number(), normal = number(), per = number()}
  windows[i] = w
  span = math.max(span, w.per)
end
local conf = text() -- what this process takes the quota to be
local function flag(f) return string.find(flags, f, 1, true) ~= nil end
local reserved = flag('N') -- for calls of high priority

local head = call('HMGET', HEAD, 'epoch', 'last', 'skew', 'learn', 'pause', 'turn', 'n', 'span', 'lows',
  'server', 'r:' .. me, 'conf')
local current, last, skew = head[1], tonumber(head[2] or 0), tonumber(head[3] or 0)
local learn, pause, turn = tonumber(head[4] or 0), tonumber(head[5] or 0), tonumber(head[6] or 0)
local lows = tonumber(head[9] or 0)
span = math.max(span, tonumber(head[8] or 0))
local stored, hadH, hadN = 0, 0, 0
if head[11] then
  local a, b, c = string.match(head[11], '^(%d+):(%d+):(%d+)$')
  stored, hadH, hadN = tonumber(a), tonumber(b), tonumber(c)
end

-- A request that was overtaken by a later one of its process: to take it for a rollback, or to apply
-- its ends again, would both be wrong.
if current and seq < stored then return {'late'} end

local clock = call('TIME')
local raw = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = math.max(raw - skew, last)

-- lose begins anew: everybody uploads what he knows before anybody may go.
local function lose(until_)
  current = str(raw) .. '.' .. me
  -- What was told of the limits does not depend on the log.
  local told = call('HMGET', HEAD, 'lows', 'low')
  call('UNLINK', LOG, NORMAL, LINE, SEEN, HEAD)
  if told[1] and told[2] then call('HSET', HEAD, 'lows', told[1], 'low', told[2]) end
  learn, turn, stored, hadH, hadN = until_, 0, 0, 0, 0
end

-- Which server it is. Who may not ask for that goes without.
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''

local step, from, to = text(), number(), number()
if not current then
  if epoch == '' and flag('E') then lose(now)            -- the user's word: nothing was sent
  elseif epoch == '' and flag('S') then lose(now + span) -- everything was, just now
  else lose(now + learning) end
elseif tonumber(head[7] or 0) ~= call('ZCARD', LOG) then -- the log was evicted
  lose(now + learning)
elseif server ~= '' and head[10] and head[10] ~= '' and head[10] ~= server then
  lose(now + learning) -- a replica has taken over, or Redis has started again: it may lack the last second
elseif stored < acked and (epoch == current or stored > 0 and stored < seq) then
  -- A failover has taken back what this process was told: of this epoch, or of a later one.
  lose(now + learning)
elseif step == 'step' and epoch == current and from == skew and seq > stored then
  skew = to
  now = raw - skew
  lose(now + learning)
end

local mine = tonumber(call('ZSCORE', SEEN, me) or -1) > 0 and 1 or 0
if (flag('A') or last < learn) and last > 0 and now - last > silence and call('ZCOUNT', SEEN, '(0', '+inf') > mine then
  -- Others were there, and nobody could ask for so long that they may have gone on alone: first they
  -- have to tell. Or the clock was set forward while they were about to.
  learn = math.max(learn, now + learning)
end

local known = epoch == current
local again = known and seq == stored
local grantH, grantN, waitH, waitN = 0, 0, -1, -1
call('ZADD', SEEN, str(now), me)

-- The last words of what all had taken, for the calls of those who can't upload any more. One that
-- took long to arrive looks newer than it is, and so the most of each counts.
local age, away = number(), number()
local used = {}
for i = 1, #windows do used[i] = number() end
if age >= 0 and known and not again then
  local word = call('HMGET', HEAD, 'known', 'used')
  local i = 0
  for n in string.gmatch(word[2] or '', '%d+') do
    i = i + 1
    used[i] = math.max(used[i] or 0, tonumber(n))
  end
  call('HSET', HEAD, 'known', str(math.max(now - age, tonumber(word[1] or 0))), 'used', table.concat(used, ' '))
end
local asked = number() -- how long the pause goes on that this process was told of
if asked > 0 and not again then pause = math.max(pause, now + asked) end
local heard, low = number(), text() -- what was learned of the limits
if low ~= '' and not again then
  lows = math.max(now, lows + 1)
  call('HSET', HEAD, 'lows', str(lows), 'low', low)
end

local function pairs_of(n, f)
  local batch = {}
  for i = 1, n do
    local score, id = str(now - number()), text()
    batch[#batch + 1] = score
    batch[#batch + 1] = me .. ':' .. id
    if #batch == 500 or i == n then f(batch); batch = {} end
  end
end
if known and not again then
  if flag('U') then learn = math.max(learn, now + learning) -- more comes
  elseif flag('R') and now >= learn then learn = now + learning end -- others may have as much to tell
  if away > 0 then call('HINCRBY', HEAD, 'away', away) end
  pairs_of(number(), function(b) -- the server has counted them by then
    call('ZADD', LOG, 'XX', 'LT', unpack(b))
    if reserved then call('ZADD', NORMAL, 'XX', 'LT', unpack(b)) end
  end)
  pairs_of(number(), function(b) -- or may count them later than all know: of high priority
    call('ZADD', LOG, 'GT', unpack(b))
  end)
  pairs_of(number(), function(b) -- and the others
    call('ZADD', LOG, 'GT', unpack(b))
    if reserved then call('ZADD', NORMAL, 'GT', unpack(b)) end
  end)
  local gone = {}
  for i = 1, number() do -- never left
    gone[i] = me .. ':' .. text()
  end
  for i = 1, #gone, 500 do
    local some = {unpack(gone, i, math.min(i + 499, #gone))}
    call('ZREM', LOG, unpack(some))
    if reserved then call('ZREM', NORMAL, unpack(some)) end
  end
  for class = 1, 2 do -- runs of those that are over, of an upload
    for i = 1, number() do
      local score, n = str(now - number()), number()
      local batch = {}
      for j = 1, n do
        batch[#batch + 1] = score
        batch[#batch + 1] = me .. ':' .. str(seq) .. '.' .. class .. '.' .. i .. '.' .. j
        if #batch == 500 or j == n then
          call('ZADD', LOG, unpack(batch))
          if reserved and class == 2 then call('ZADD', NORMAL, unpack(batch)) end
          batch = {}
        end
      end
    end
  end
end

-- A process that has been silent for so long has nothing under way that it might still send.
for _, p in ipairs(call('ZRANGEBYSCORE', SEEN, '(0', str(now - dead), 'LIMIT', 0, 20)) do
  local seen = tonumber(call('ZSCORE', SEEN, p))
  local cut = str(seen + dead)
  for _, id in ipairs(call('ZRANGEBYSCORE', LOG, '(' .. cut, '+inf')) do
    if string.sub(id, 1, #p + 1) == p .. ':' then
      call('ZADD', LOG, 'XX', 'LT', cut, id)
      call('ZADD', NORMAL, 'XX', 'LT', cut, id)
    end
  end
  call('ZREM', LINE, 'h' .. p, 'n' .. p)
  call('ZADD', SEEN, str(-seen), p) -- its number is kept: it may come back
end
local keep = span + lease + learning + 60000000
local forgotten = call('ZRANGEBYSCORE', SEEN, '(' .. str(keep - now), '(0', 'LIMIT', 0, 20)
for _, p in ipairs(forgotten) do
  call('ZREM', SEEN, p)
  call('HDEL', HEAD, 'r:' .. p, 'd:h' .. p, 'd:n' .. p, 'k:h' .. p, 'k:n' .. p)
end

-- The learning time is over: what somebody has seen and nobody has uploaded is filled in.
if now >= learn then
  local word = call('HMGET', HEAD, 'known', 'used', 'away')
  if word[1] then
    local time, extra, order = tonumber(word[1]), tonumber(word[3] or 0), {}
    local i = 0
    for n in string.gmatch(word[2], '%d+') do
      i = i + 1
      if windows[i] then order[i] = {per = windows[i].per, used = tonumber(n)} end
    end
    table.sort(order, function(a, b) return a.per < b.per end)
    local upto = time
    for i, w in ipairs(order) do
      local have = call('ZCOUNT', LOG, '(' .. str(time - w.per), '+inf') - extra
      for j = 1, w.used - have do
        local id = 'fill:' .. str(time) .. '.' .. i .. '.' .. j
        call('ZADD', LOG, str(upto), id)
        if reserved then call('ZADD', NORMAL, str(upto), id) end
      end
      upto = time - w.per -- a shorter window had let these go by then
    end
    call('HDEL', HEAD, 'known', 'used', 'away')
  end
end

-- What is older than any window. Counts don't mind leftovers, and many at once would stop the server.
-- What is uploaded is compared with what was known some time ago: it stays until then.
for _, key in ipairs(reserved and {LOG, NORMAL} or {LOG}) do
  local before = str(now - span - (now < learn and 2 * learning or 0))
  local old = call('ZCOUNT', key, '-inf', before)
  if old > 0 then call('ZREMRANGEBYRANK', key, 0, math.min(old, 1000) - 1) end
end

local taken, normals = {}, {}
for i, w in ipairs(windows) do
  taken[i] = call('ZCOUNT', LOG, '(' .. str(now - w.per), '+inf')
  normals[i] = reserved and call('ZCOUNT', NORMAL, '(' .. str(now - w.per), '+inf') or 0
end

-- room returns how many places are free for a class behind those that others ahead will take, and
-- whether a call that needs some fits. One that is heavier than the limit goes alone.
local function room(class, ahead, needs)
  local least, fits = math.huge, true
  for i, w in ipairs(windows) do
    least = math.min(least, w.n - taken[i] - ahead)
    fits = fits and taken[i] + ahead + math.min(needs, w.n) <= w.n
    if reserved and class == 'n' then
      least = math.min(least, w.normal - normals[i] - ahead)
      fits = fits and normals[i] + ahead + math.min(needs, w.normal) <= w.normal
    end
  end
  return least, fits
end

-- earliest returns when a call fits that has others ahead, and the length of the window that it
-- waits for. What is in flight is over after the usual delay.
local function earliest(class, ahead, needs)
  local when, per = 0, 0
  local function consider(key, n, w)
    local index, rounds = n - ahead - math.min(needs, n), 0
    if index < 0 then
      rounds = math.ceil(-index / n)
      index = index + rounds * n
    end
    local entry = call('ZREVRANGE', key, index, index, 'WITHSCORES')
    local t = 0
    if entry[2] then
      t = tonumber(entry[2])
      if t > now then t = math.max(now, t - lease + delay) end
      t = t + w.per
    elseif rounds > 0 then
      t = now
    end
    t = t + rounds * (w.per + delay)
    if t > when then when, per = t, w.per end
  end
  for _, w in ipairs(windows) do
    consider(LOG, w.n, w)
    if reserved and class == 'n' then consider(NORMAL, w.normal, w) end
  end
  return when, per
end

local places = 0
local function ask(class)
  local member = class .. me
  local wanted, needs = want[class], need[class]
  if wanted == 0 then call('ZREM', LINE, member) end
  if wanted <= 0 then return 0, -1 end
  local function stand(how)
    turn = turn + 1
    call('ZADD', LINE, how, str(class == 'h' and turn - 35184372088832 or turn), member)
  end
  stand('NX')
  local closed = math.max(learn, pause)
  if now < closed then
    call('HSET', HEAD, 'd:' .. member, str(closed) .. ' ' .. str(needs))
    return 0, closed - now
  end
  -- Who is ahead and whose time has come goes first; who has let it pass goes to the end.
  local ahead, soon, due = 0, 0, 0
  local rank = call('ZRANK', LINE, member)
  if rank > 0 then
    local members, fields = call('ZRANGE', LINE, 0, math.min(rank, 3000) - 1), {}
    for i, m in ipairs(members) do fields[i] = 'd:' .. m end
    for i, told in ipairs(call('HMGET', HEAD, unpack(fields))) do
      local d, k = string.match(told or '0 1', '^(%d+) (%d+)$')
      d, k = tonumber(d), tonumber(k)
      if d < now - grace then
        call('ZREM', LINE, members[i])
      else
        ahead = ahead + k
        -- Who needs several places would never find them, if others took each one as it becomes free.
        if d <= now + 2000 or k > 1 then soon, due = soon + k, math.max(due, d) end
      end
    end
  end
  local got = 0
  local least, fits = room(class, soon, needs)
  local waiting = call('ZCARD', LINE)
  if fits then
    got = math.max(needs, math.min(wanted, math.floor((least + soon) / waiting), least))
    local until_, batch = str(now + lease), {}
    for i = 1, got do
      places = places + 1
      batch[#batch + 1] = until_
      batch[#batch + 1] = me .. ':' .. str(seq) .. ':' .. places
      if #batch == 500 or i == got then
        call('ZADD', LOG, unpack(batch))
        if reserved and class == 'n' then call('ZADD', NORMAL, unpack(batch)) end
        batch = {}
      end
    end
    for i = 1, #windows do
      taken[i] = taken[i] + got
      if class == 'n' then normals[i] = normals[i] + got end
    end
    if got >= wanted then
      call('ZREM', LINE, member)
      return got, -1
    end
    wanted = wanted - got
    stand('XX')
    ahead = waiting - 1
  end
  local when, per = earliest(class, ahead, needs)
  if when <= now then
    when = math.max(now, due) + 2000
  elseif wanted > needs then -- a little later, several are taken at once
    local several = math.max(needs, math.min(wanted, math.floor(windows[1].n / waiting)))
    when = math.min(math.max(when, (earliest(class, ahead, several))), when + per / 200)
  end
  when = math.max(math.ceil(when), now + 500)
  call('HSET', HEAD, 'd:' .. member, str(when) .. ' ' .. str(needs))
  return got, when - now
end

if again then
  grantH, grantN = hadH, hadN
elseif known then
  if flag('B') then
    call('ZREM', LINE, 'h' .. me, 'n' .. me)
    call('ZREM', SEEN, me)
  else
    grantH, waitH = ask('h')
    grantN, waitN = ask('n')
  end
end

call('HSET', HEAD, 'epoch', current, 'last', str(now), 'skew', str(skew), 'learn', str(learn),
  'pause', str(pause), 'turn', str(turn), 'n', call('ZCARD', LOG), 'span', str(span),
  'server', server, 'conf', conf,
  'r:' .. me, str(seq) .. ':' .. grantH .. ':' .. grantN)
for _, key in ipairs(KEYS) do call('PEXPIRE', key, str(math.ceil(keep / 1000))) end

local reply = {known and 'ok' or 'changed', current, str(raw), str(skew), str(grantH), str(grantN),
  str(waitH), str(waitN), str(call('ZCOUNT', SEEN, '(0', '+inf')), str(math.max(0, pause - now)),
  str(math.max(0, learn - now)), str(lows), '', '0'}
if lows ~= heard then
  reply[13] = call('HGET', HEAD, 'low') or ''
  reply[14] = str(now - lows)
end
for i = 1, #windows do reply[#reply + 1] = str(taken[i]) end
reply[#reply + 1] = head[12] or conf -- what the one before took it to be
return reply
