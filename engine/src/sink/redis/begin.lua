-- Starts an epoch: its checkpoint, the phase, the catalogue, and the registered
-- consumers' groups, in one step.
-- KEYS: 1 checkpoint, 2 changes, 3 bootstrap, 4 load, 5 acks, 6 state, 7 catalog,
--       8 consumers, 9 dead letters: those of the epoch before, whose rows are loaded
--       again now.
-- ARGV: 1 epoch that must be found ('' = none), 2 '1' if a state is compared and set,
--       3 '1' if a state must be found, 4 that state, 5 the new state, 6 '1' if a
--       catalogue is set, 7 the catalogue, then the checkpoint's fields.
if (redis.call('HGET', KEYS[1], 'epoch') or '') ~= ARGV[1] then
  return {'MOVED'}
end
if ARGV[2] == '1' then
  local state = redis.call('GET', KEYS[6])
  if (ARGV[3] == '1' and state ~= ARGV[4]) or (ARGV[3] ~= '1' and state) then
    return {'MOVED'}
  end
end
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4], KEYS[5]) > 0 then
  return {'TAKEN'}
end
redis.call('DEL', KEYS[1], KEYS[9])
for i = 8, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
if ARGV[2] == '1' then
  redis.call('SET', KEYS[6], ARGV[5])
end
if ARGV[6] == '1' then
  redis.call('SET', KEYS[7], ARGV[7])
end
for _, name in ipairs(redis.call('HKEYS', KEYS[8])) do
  redis.call('XGROUP', 'CREATE', KEYS[2], name, '0', 'MKSTREAM')
  redis.call('XGROUP', 'CREATE', KEYS[3], name, '0', 'MKSTREAM')
end
return {'DONE'}
