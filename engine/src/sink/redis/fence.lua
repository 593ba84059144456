-- Takes over as writer of the changes stream, if nothing happened since it was read.
-- KEYS: 1 checkpoint, 2 changes.
-- ARGV: 1 epoch, 2 writer as read, 3 last id as read, 4 the stream's last id as read,
--       5 position as read, then the fields to set, the new writer among them.
local found = redis.call('HMGET', KEYS[1], 'epoch', 'writer', 'last', 'position')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] then
  return {'FENCED', found[2] or '', found[1] or ''}
end
local reached = top(KEYS[2])
if found[3] ~= ARGV[3] or reached ~= ARGV[4] or found[4] ~= ARGV[5] then
  return {'MOVED', reached, found[3] or ''}
end
for i = 6, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return {'DONE'}
