-- Takes the loader's turn: refused while another owner's lease runs. Notes after how many
-- entries it begins, in the place of a turn that has written nothing.
-- KEYS: 1 load, 2 bootstrap, 3 checkpoint.
-- ARGV: 1 epoch, 2 owner, 3 writer, 4 lease in ms.
local current = redis.call('HGET', KEYS[3], 'epoch')
if current ~= ARGV[1] then
  return {'EPOCH', current or ''}
end
local found = redis.call('HMGET', KEYS[1], 'owner', 'until', 'last')
local ms = now()
if found[1] and found[1] ~= ARGV[2] and tonumber(found[2]) > ms then
  return {'HELD', found[1], tostring(tonumber(found[2]) - ms)}
end
local reached = top(KEYS[2])
local last = found[3] or '0-0'
if reached ~= last then
  return {'TORN', reached, last}
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'writer', ARGV[3], 'last', last,
  'until', string.format('%.0f', ms + ARGV[4]))
local start, runs = last:match('^%d+'), redis.call('HGET', KEYS[1], 'runs') or ''
if runs:match('(%d+):%S+$') == start then
  runs = runs:gsub(' ?%d+:%S+$', '')
end
runs = runs .. (runs == '' and '' or ' ') .. start .. ':' .. ARGV[3]
redis.call('HSET', KEYS[1], 'runs', runs)
local reply = {'YES', last}
for _, word in ipairs(redis.call('HGETALL', KEYS[1])) do
  table.insert(reply, word)
end
return reply
