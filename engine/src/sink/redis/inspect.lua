-- The checkpoint and the last ids of its epoch's streams, in one step.
-- KEYS: 1 checkpoint, 2 state, 3 catalog, 4 consumers, 5 dead letters. ARGV: 1 the tag of all keys.
local function wrong(key, expected)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= expected then
    return {'WRONGTYPE', key, found, expected}
  end
end
local no = wrong(KEYS[1], 'hash') or wrong(KEYS[2], 'string')
  or wrong(KEYS[3], 'string') or wrong(KEYS[4], 'hash') or wrong(KEYS[5], 'stream')
if no then
  return no
end
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
local base = ARGV[1] .. ':' .. epoch
no = wrong(base .. ':changes', 'stream') or wrong(base .. ':bootstrap', 'stream')
  or wrong(base .. ':load', 'hash') or wrong(base .. ':acks', 'hash')
if no then
  return no
end
local reply = {'FOUND', top(base .. ':changes'), top(base .. ':bootstrap'),
  tostring(redis.call('XLEN', base .. ':changes')), tostring(redis.call('XLEN', KEYS[5]))}
for _, word in ipairs(redis.call('HGETALL', KEYS[1])) do
  table.insert(reply, word)
end
return reply
