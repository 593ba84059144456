-- Removes what every registered consumer has acknowledged, and what lies before a
-- ceiling, cutting where a transaction begins; keeps the newest transaction, and of the
-- load its newest `end` and what comes after it: it says that the load is complete. Under
-- pressure it cuts inside a transaction too: one that is larger than the budget would
-- never find room otherwise.
-- KEYS: 1 checkpoint, 2 changes, 3 bootstrap, 4 acks, 5 consumers, 6 load.
-- ARGV: 1 epoch, 2 ceiling ('' = none), 3 '1' under pressure.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 0
end

-- Removes everything below `cut` and stores the newest id that went: Redis itself keeps
-- no trace, and readers must be told.
local function remove(stream, cut, field)
  -- Nothing is before it, and Redis refuses to be asked.
  if cut == '0-0' then
    return 0
  end
  local entry = redis.call('XREVRANGE', stream, '(' .. cut, '-', 'COUNT', 1)[1]
  if not entry then
    return 0
  end
  redis.call('HSET', KEYS[1], field, entry[1])
  return redis.call('XTRIM', stream, 'MINID', cut)
end

-- Sections of tables that are loaded again: the mark in the changes before which nobody
-- needs them, and the number of their first entry.
local sections = {}
local words = redis.call('HGETALL', KEYS[6])
for i = 1, #words, 2 do
  local mark = words[i]:match('^p:section:(%d+)$')
  if mark then
    table.insert(sections, {mark .. '-0', tonumber(words[i + 1])})
  end
end

local changes, load = nil, nil
for _, name in ipairs(redis.call('HKEYS', KEYS[5])) do
  local c = acked(KEYS[1], KEYS[4], KEYS[2], name, 'c')
  local b = acked(KEYS[1], KEYS[4], KEYS[3], name, 'b')
  if not changes or before(c, changes) then
    changes = c
  end
  -- Whoever reads changes has the whole load, but for the sections whose mark is to come.
  if c ~= '0-0' then
    local first = nil
    for _, section in ipairs(sections) do
      if not before(section[1], c) and (not first or section[2] < first) then
        first = section[2]
      end
    end
    if not first then
      b = '18446744073709551615-18446744073709551615'
    elseif before(b, string.format('%.0f-0', first)) then
      -- The end before the section says what of the changes up to it is loaded already.
      b = string.format('%.0f-1', first - 2)
    end
  end
  if not load or before(b, load) then
    load = b
  end
end

local removed = 0
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if newest then
  local last = newest[1]
  newest = last:match('^(%d+)-') .. '-0'
  local cut = nil
  if changes then
    local wanted = redis.call('XRANGE', KEYS[2], '(' .. changes, '+', 'COUNT', 1)[1]
    cut = wanted and (wanted[1]:match('^(%d+)-') .. '-0') or newest
    -- The entry that was acknowledged last stays: a reader sees by it where it stands.
    local inside = before(last, changes) and last or changes
    if ARGV[3] == '1' and before(cut, inside) then
      cut = inside
    end
    -- So does a mark: whoever stands on it has its section before them.
    if changes:match('%-0$') and before(changes, cut) then
      cut = changes
    end
  end
  if ARGV[2] ~= '' then
    local ceiling = ARGV[2]:match('^(%d+)-') .. '-0'
    if before(newest, ceiling) then
      ceiling = newest
    end
    if not cut or before(cut, ceiling) then
      cut = ceiling
    end
  end
  if cut then
    removed = removed + remove(KEYS[2], cut, 'trim')
  end
end

local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
if load and last then
  local wanted = nil
  if before(load, last[1]) then
    wanted = redis.call('XRANGE', KEYS[3], '(' .. load, '+', 'COUNT', 1)[1]
  end
  -- The entry that was acknowledged last stays: if it is an `end`, changes come next.
  local cut = wanted and load or last[1]
  local finish = redis.call('HGET', KEYS[6], 'end')
  if finish and before(finish, cut) then
    cut = finish
  end
  removed = removed + remove(KEYS[3], cut, 'trim_bootstrap')
end
return removed
