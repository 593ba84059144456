-- Every registered consumer and what it has acknowledged.
-- KEYS: 1 checkpoint, 2 consumers. ARGV: 1 the tag of all keys.
local base = ARGV[1] .. ':' .. (redis.call('HGET', KEYS[1], 'epoch') or '0')
local reply = {}
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local name = all[i]
  table.insert(reply, {
    name,
    all[i + 1],
    redis.call('HGET', base .. ':acks', name .. ':t') or '',
    acked(KEYS[1], base .. ':acks', base .. ':bootstrap', name, 'b'),
    acked(KEYS[1], base .. ':acks', base .. ':changes', name, 'c'),
  })
end
return reply
