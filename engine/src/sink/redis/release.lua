-- Gives up the loader's turn, if the writer still has it.
-- KEYS: 1 load. ARGV: 1 writer.
if redis.call('HGET', KEYS[1], 'writer') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner', 'until')
end
return {'DONE'}
