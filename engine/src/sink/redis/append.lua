-- Appends to the changes stream and moves the checkpoint, or changes nothing.
-- KEYS: 1 checkpoint, 2 changes, 3 dead letters.
-- ARGV: 1 writer, 2 epoch, 3 expected last id, 4 generation, 5 number n of checkpoint
--       words, then n words (field, value, …), then dead letters, then the entries.
local no = refused(KEYS[1], KEYS[2], KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local words = tonumber(ARGV[5])
no = full(KEYS[3], 6 + words)
if no then
  return no
end
local last = append(KEYS[2], ARGV[4], letters(KEYS[3], 6 + words))
if last then
  redis.call('HSET', KEYS[1], 'last', last)
end
for i = 6, 5 + words, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return {'DONE'}
