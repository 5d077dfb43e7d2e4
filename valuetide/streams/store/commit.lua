-- One commit: a record, hashes, alerts, ranked customers and customers change together, and only if
-- the record is at the sequence that the writer last saw. A shard's has all of these; the watch over
-- the series of all shards has no customers.
--
-- KEYS  1 record   2 stream of alerts   3 open alerts   4 .. 3+H hashes   then T ranked sets
--       then customers
-- ARGV  1 sequence to make    2 writer   3 kept per ranked set   4 alerts kept in the stream
--       msgpack: 5 record fields, flat   6 alerts: fingerprint, text, 1 if open else 0; flat
--       7 per hash how many of the last arguments it takes   8 per hash fields to delete
--       9 per ranked set: value, id, value, id ..
--       10 names of the score fields that are text, then of those that are numbers; none: only the
--       packed states are kept   11 how many are text   12 texts, flat, row by row, nil for no value
--       as arguments of their own, for Redis 7.0's cmsgpack knows no bytes:
--       13 numbers, flat, row by row, each as it is to be stored and followed by a comma; null is
--       stored as no text: a number of Lua's would be written with 17 digits
--       14 packed states, one after the other   15 how many bytes each has, msgpack
--       16 .. names and bytes of what the hashes take, one hash after the other
local keep = tonumber(ARGV[3])
local alerts, sizes = cmsgpack.unpack(ARGV[6]), cmsgpack.unpack(ARGV[7])
local gone, top = cmsgpack.unpack(ARGV[8]), cmsgpack.unpack(ARGV[9])
local first_ranked = 3 + #sizes
-- Lua's stack takes no more values at once.
local MOST = 4000

-- Per ranked set the least value that is kept, empty while there are places left.
local function floors()
  local least = {}
  for t = 1, #top do
    least[t] = ''
    local key = KEYS[first_ranked + t]
    if redis.call('ZCARD', key) >= keep then
      least[t] = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    end
  end
  return least
end

local at = redis.call('HMGET', KEYS[1], 'sequence', 'writer')
local sequence = tonumber(ARGV[1])
local current = tonumber(at[1] or '0')
if current ~= sequence - 1 then
  if current == sequence and at[2] == ARGV[2] then return {1, current, at[2], floors()} end
  return {0, current, at[2] or '', {}}
end

redis.call('HSET', KEYS[1], 'sequence', ARGV[1], 'writer', ARGV[2])
-- The watch's record has two fields for each shard.
local fields = cmsgpack.unpack(ARGV[5])
for part = 1, #fields, MOST do
  redis.call('HSET', KEYS[1], unpack(fields, part, math.min(part + MOST - 1, #fields)))
end

local taken = 15
for h = 1, #sizes do
  local last = taken + sizes[h]
  for part = taken + 1, last, MOST do
    redis.call('HSET', KEYS[3 + h], unpack(ARGV, part, math.min(part + MOST - 1, last)))
  end
  for part = 1, #gone[h], MOST do
    redis.call('HDEL', KEYS[3 + h], unpack(gone[h], part, math.min(part + MOST - 1, #gone[h])))
  end
  taken = last
end

for a = 1, #alerts, 3 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'alert', alerts[a + 1])
  if alerts[a + 2] == 1 then
    redis.call('HSET', KEYS[3], alerts[a], alerts[a + 1])
  else
    redis.call('HDEL', KEYS[3], alerts[a])
  end
end

for t = 1, #top do
  local key, ranked = KEYS[first_ranked + t], top[t]
  for i = 1, #ranked, 2 do redis.call('ZADD', key, ranked[i], ranked[i + 1]) end
  if #ranked > 0 then redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1) end
end

-- What was readable goes when only the state is kept, whatever fields it had.
local function forget(key)
  local old = redis.call('HGETALL', key)
  for i = 1, #old, 2 do
    if old[i] ~= 's' then redis.call('HDEL', key, old[i]) end
  end
end

local names = cmsgpack.unpack(ARGV[10])
local texts = cmsgpack.unpack(ARGV[12])
local number = string.gmatch(ARGV[13], '([^,]+),')
local width, of_text = #names, cmsgpack.unpack(ARGV[11])
local args = {}
for f = 1, width do args[2 * f - 1] = names[f] end
args[2 * width + 1] = 's'
local first, lengths, state = first_ranked + #top, cmsgpack.unpack(ARGV[15]), 1
for c = 1, #KEYS - first do
  local base = (c - 1) * of_text
  for f = 1, of_text do args[2 * f] = texts[base + f] or '' end
  for f = of_text + 1, width do
    local value = number()
    args[2 * f] = value ~= 'null' and value or ''
  end
  args[2 * width + 2] = string.sub(ARGV[14], state, state + lengths[c] - 1)
  state = state + lengths[c]
  if width == 0 then forget(KEYS[first + c]) end
  redis.call('HSET', KEYS[first + c], unpack(args))
end
return {1, sequence, ARGV[2], floors()}
