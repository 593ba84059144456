-- Appends to the bootstrap stream, stores progress and renews the lease.
-- KEYS: 1 load, 2 bootstrap, 3 checkpoint, 4 dead letters.
-- ARGV: 1 writer, 2 epoch, 3 expected last id, 4 generation, 5 lease in ms,
--       6 number n of words to set, 7 number m of fields to forget, then n words
--       (field, value, …), then m fields, then dead letters, then the entries.
local no = refused(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local set = 8 + tonumber(ARGV[6])
local rest = set + tonumber(ARGV[7])
no = full(KEYS[4], rest)
if no then
  return no
end
local entries = letters(KEYS[4], rest)
local last = append(KEYS[2], ARGV[4], entries)
if last then
  measure(KEYS[1], ARGV[3], last, entries)
  redis.call('HSET', KEYS[1], 'last', last)
end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now() + ARGV[5]))
for i = 8, set - 1, 2 do
  redis.call('HSET', KEYS[1], 'p:' .. ARGV[i], ARGV[i + 1])
end
for i = set, rest - 1 do
  redis.call('HDEL', KEYS[1], 'p:' .. ARGV[i])
end
return {'DONE'}
