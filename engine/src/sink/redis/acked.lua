-- Prelude of what looks at consumers. Ids are compared as text: LSNs have 64 bits,
-- Lua's numbers 53.

local function less(a, b)
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

local function before(a, b)
  local ah, al = a:match('^(%d+)-(%d+)$')
  local bh, bl = b:match('^(%d+)-(%d+)$')
  if ah ~= bh then
    return less(ah, bh)
  end
  return less(al, bl)
end

-- Through where a consumer group has acknowledged a stream, of which everything through
-- `trimmed` is gone.
local function group(stream, name, trimmed)
  if redis.call('EXISTS', stream) == 0 then
    return '0-0'
  end
  for _, words in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = {}
    for i = 1, #words, 2 do
      info[words[i]] = words[i + 1]
    end
    if info['name'] == name then
      if info['pending'] == 0 then
        return info['last-delivered-id']
      end
      local oldest = redis.call('XPENDING', stream, name)[2]
      local entry = redis.call('XREVRANGE', stream, '(' .. oldest, '-', 'COUNT', 1)[1]
      return entry and entry[1] or trimmed
    end
  end
  return '0-0'
end

-- The further of what the group and what `Ack` say.
local function acked(checkpoint, acks, stream, name, lane)
  local field = lane == 'c' and 'trim' or 'trim_bootstrap'
  local trimmed = redis.call('HGET', checkpoint, field) or '0-0'
  local by_group = group(stream, name, trimmed)
  local by_call = redis.call('HGET', acks, name .. ':' .. lane) or '0-0'
  return before(by_group, by_call) and by_call or by_group
end
