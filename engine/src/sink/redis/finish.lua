-- Ends the load: the `end` entry, the phase, and the lease, in one step.
-- KEYS: 1 load, 2 bootstrap, 3 checkpoint, 4 state.
-- ARGV: 1 writer, 2 epoch, 3 expected last id, 4 generation, 5 '1' if a state must be
--       found, 6 that state, 7 the new state, then the entry.
local no = refused(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local state = redis.call('GET', KEYS[4])
if (ARGV[5] == '1' and state ~= ARGV[6]) or (ARGV[5] ~= '1' and state) then
  return {'STATE', state}
end
local last = append(KEYS[2], ARGV[4], 8)
measure(KEYS[1], ARGV[3], last, 8)
redis.call('HSET', KEYS[1], 'last', last, 'end', last, 'writer', 'finished')
redis.call('HDEL', KEYS[1], 'owner', 'until')
redis.call('SET', KEYS[4], ARGV[7])
return {'DONE'}
