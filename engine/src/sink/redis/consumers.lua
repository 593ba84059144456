-- Every registered consumer, when it was last heard of, and what it has acknowledged.
-- KEYS: 1 checkpoint, 2 consumers. ARGV: 1 the tag of all keys.

-- When a member of the group last read or acknowledged, by the server's clock; 0 = never.
local function heard(stream, name)
  local at = 0
  local members = redis.pcall('XINFO', 'CONSUMERS', stream, name)
  if members['err'] then
    return at
  end
  for _, words in ipairs(members) do
    for i = 1, #words, 2 do
      if words[i] == 'idle' then
        at = math.max(at, now() - words[i + 1])
      end
    end
  end
  return at
end

local base = ARGV[1] .. ':' .. (redis.call('HGET', KEYS[1], 'epoch') or '0')
local reply = {}
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local name = all[i]
  local seen = math.max(tonumber(redis.call('HGET', base .. ':acks', name .. ':t') or '0'),
    heard(base .. ':bootstrap', name), heard(base .. ':changes', name))
  table.insert(reply, {
    name,
    all[i + 1],
    seen > 0 and string.format('%.0f', seen) or '',
    acked(KEYS[1], base .. ':acks', base .. ':bootstrap', name, 'b'),
    acked(KEYS[1], base .. ':acks', base .. ':changes', name, 'c'),
  })
end
return reply
