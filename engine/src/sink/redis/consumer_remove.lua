-- Forgets a consumer, its groups and its acknowledgements.
-- KEYS: 1 checkpoint, 2 consumers. ARGV: 1 the tag of all keys, 2 name.
local known = redis.call('HDEL', KEYS[2], ARGV[2])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch then
  local base = ARGV[1] .. ':' .. epoch
  for _, lane in ipairs({'changes', 'bootstrap'}) do
    if redis.call('EXISTS', base .. ':' .. lane) == 1 then
      redis.call('XGROUP', 'DESTROY', base .. ':' .. lane, ARGV[2])
    end
  end
  redis.call('HDEL', base .. ':acks', ARGV[2] .. ':b', ARGV[2] .. ':c', ARGV[2] .. ':t')
end
return known
