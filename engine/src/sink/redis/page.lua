-- A page of a stream, with what says whether it is whole: ends with the entry that
-- reaches so many bytes. Large entries are fetched one by one, small ones by the dozen.
-- KEYS: 1 checkpoint, 2 stream, 3 load.
-- ARGV: 1 field of the trim point, 2 id after which it begins, 3 entries at most, 4 bytes.
local found = redis.call('HMGET', KEYS[1], 'epoch', ARGV[1], 'sizes')
local entries, from, bytes, largest = {}, '(' .. ARGV[2], 0, 0
local left, limit, step = tonumber(ARGV[3]), tonumber(ARGV[4]), 1
while left > 0 and bytes < limit do
  local count = math.min(left, step)
  local some = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', count)
  for _, entry in ipairs(some) do
    if bytes >= limit then
      break
    end
    local weight = 0
    for _, word in ipairs(entry[2]) do
      weight = weight + #word
    end
    bytes, largest = bytes + weight, math.max(largest, weight)
    table.insert(entries, entry)
  end
  if #some < count then
    break
  end
  from, left = '(' .. some[#some][1], left - count
  step = math.max(1, math.min(16, step * 4, math.floor((limit - bytes) / math.max(largest, 1))))
end
local load = redis.call('HMGET', KEYS[3], 'end', 'runs', 'measured')
return {found[1], found[2], found[3], entries, load[1], load[2], load[3]}
