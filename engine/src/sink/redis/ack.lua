-- Stores that a consumer has everything through an id; never goes back, and never beyond
-- the stream: what is yet to come nobody can have.
-- KEYS: 1 checkpoint, 2 consumers, 3 acks, 4 stream.
-- ARGV: 1 epoch, 2 name, 3 lane ('b' or 'c'), 4 id.
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then
  return 'UNREGISTERED'
end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 'EPOCH'
end
local through, reached = ARGV[4], top(KEYS[4])
if before(reached, through) then
  through = reached
end
local field = ARGV[2] .. ':' .. ARGV[3]
if before(redis.call('HGET', KEYS[3], field) or '0-0', through) then
  redis.call('HSET', KEYS[3], field, through)
end
redis.call('HSET', KEYS[3], ARGV[2] .. ':t', string.format('%.0f', now()))
return 'DONE'
