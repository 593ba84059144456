-- Prelude of every guarded write. Compares before anything is written, so that a
-- refused call changes nothing.

-- The stream's last generated id, which trimming and deleting do not take back.
local function top(stream)
  if redis.call('EXISTS', stream) == 0 then
    return '0-0'
  end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
  return redis.error_reply('ERR XINFO STREAM names no last-generated-id')
end

-- nil if the writer is the rightful one and the stream ends where it left it.
-- A guard that is gone altogether is MOVED, not FENCED: nobody took over, data was lost.
local function refused(guard, stream, checkpoint, writer, epoch, last)
  local found = redis.call('HMGET', guard, 'writer', 'last')
  local current = redis.call('HGET', checkpoint, 'epoch')
  if (current and current ~= epoch) or (found[1] and found[1] ~= writer) then
    return {'FENCED', found[1] or '', current or ''}
  end
  local reached = top(stream)
  if not current or not found[1] or found[2] ~= last or reached ~= last then
    return {'MOVED', reached, found[2] or ''}
  end
  return nil
end

-- Appends the entries that begin at ARGV[i], five words each: id, o, t, d, l.
-- Answers the last id, or nil if there were none. It runs for every row: what it calls is
-- local, and it makes no tables.
local function append(stream, generation, i)
  local call, words, count, last = redis.call, ARGV, #ARGV, nil
  while i <= count do
    last = words[i]
    local op, name, data = words[i + 1], words[i + 2], words[i + 3]
    if words[i + 4] == '1' then
      if name ~= '' then
        call('XADD', stream, last, 'o', op, 't', name, 'd', data, 'g', generation, 'l', '1')
      else
        call('XADD', stream, last, 'o', op, 'd', data, 'g', generation, 'l', '1')
      end
    elseif name ~= '' then
      call('XADD', stream, last, 'o', op, 't', name, 'd', data, 'g', generation)
    else
      call('XADD', stream, last, 'o', op, 'd', data, 'g', generation)
    end
    i = i + 5
  end
  return last
end

-- Notes how large the largest entry of the load is through the newest: its table and data, and
-- what the rest takes at most. Not if somebody who did not note it has written before. The
-- entries begin at ARGV[i], `before` is the one before them.
local function measure(load, before, last, i)
  local known = redis.call('HGET', load, 'measured') or '0-0 0'
  local at, largest = known:match('^(%S+) (%d+)$')
  if at ~= before then
    redis.call('HDEL', load, 'measured')
    return
  end
  largest = tonumber(largest)
  for word = i, #ARGV, 5 do
    largest = math.max(largest, #ARGV[word + 2] + #ARGV[word + 3] + 64)
  end
  redis.call('HSET', load, 'measured', string.format('%s %.0f', last, largest))
end

-- Milliseconds of the server's clock.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
