-- One commit of a shard: its record, its months, its model, its ranked customers and its customers
-- change together, and only if the shard is at the sequence that the writer last saw.
--
-- KEYS  1 record   2 months   3 model   4 .. 3+T ranked sets   4+T .. customers
-- ARGV  1 sequence to make    2 writer   3 kept per ranked set
--       msgpack: 4 record fields, flat   5 months, flat   6 per ranked set: value, id, value, id ..
--       msgpack: 7 names of the score fields   8 score values, flat, row by row
--       as arguments of their own, for Redis 7.0's cmsgpack knows no bytes:
--       9 number of the next   10 .. name and bytes of each piece of the model that changed
--       then packed states
local keep = tonumber(ARGV[3])
local top = cmsgpack.unpack(ARGV[6])

-- Per ranked set the least value that is kept, empty while there are places left.
local function floors()
  local least = {}
  for t = 1, #top do
    least[t] = ''
    if redis.call('ZCARD', KEYS[3 + t]) >= keep then
      least[t] = redis.call('ZRANGE', KEYS[3 + t], 0, 0, 'WITHSCORES')[2]
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

redis.call('HSET', KEYS[1], 'sequence', ARGV[1], 'writer', ARGV[2], unpack(cmsgpack.unpack(ARGV[4])))
local months = cmsgpack.unpack(ARGV[5])
if #months > 0 then redis.call('HSET', KEYS[2], unpack(months)) end
local pieces = tonumber(ARGV[9])
if pieces > 0 then redis.call('HSET', KEYS[3], unpack(ARGV, 10, 9 + pieces)) end

for t = 1, #top do
  local key, ranked = KEYS[3 + t], top[t]
  for i = 1, #ranked, 2 do redis.call('ZADD', key, ranked[i], ranked[i + 1]) end
  if #ranked > 0 then redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1) end
end

local names = cmsgpack.unpack(ARGV[7])
local values = cmsgpack.unpack(ARGV[8])
local width = #names
local args = {}
for f = 1, width do args[2 * f - 1] = names[f] end
args[2 * width + 1] = 's'
local first, states = 3 + #top, 9 + pieces
for c = 1, #KEYS - first do
  local base = (c - 1) * width
  for f = 1, width do args[2 * f] = values[base + f] end
  args[2 * width + 2] = ARGV[states + c]
  redis.call('HSET', KEYS[first + c], unpack(args))
end
return {1, sequence, ARGV[2], floors()}
