-- Whether the load's next entries may be appended, for a transaction that does so if nothing
-- changes meanwhile; with what it needs: the lease's new end, and what is noted of sizes.
-- KEYS: 1 load, 2 bootstrap, 3 checkpoint.
-- ARGV: 1 writer, 2 epoch, 3 expected last id, 4 lease in ms.
local no = refused(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local noted = redis.call('HGET', KEYS[1], 'measured') or ''
return {'MAY', string.format('%.0f', now() + ARGV[4]), noted}
