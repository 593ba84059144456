-- Stores that a consumer has everything through an id; never goes back.
-- KEYS: 1 checkpoint, 2 consumers, 3 acks.
-- ARGV: 1 epoch, 2 name, 3 lane ('b' or 'c'), 4 id.
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then
  return 'UNREGISTERED'
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 'EPOCH'
end
local field = ARGV[2] .. ':' .. ARGV[3]
if before(redis.call('HGET', KEYS[3], field) or '0-0', ARGV[4]) then
  redis.call('HSET', KEYS[3], field, ARGV[4])
end
redis.call('HSET', KEYS[3], ARGV[2] .. ':t', string.format('%.0f', now()))
return 'DONE'
