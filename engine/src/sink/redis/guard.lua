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
-- Answers the last id, or nil if there were none.
local function append(stream, generation, i)
  local last = nil
  while i <= #ARGV do
    last = ARGV[i]
    local words = {'o', ARGV[i + 1], 'd', ARGV[i + 3], 'g', generation}
    if ARGV[i + 2] ~= '' then
      words = {'o', ARGV[i + 1], 't', ARGV[i + 2], 'd', ARGV[i + 3], 'g', generation}
    end
    if ARGV[i + 4] == '1' then
      table.insert(words, 'l')
      table.insert(words, '1')
    end
    redis.call('XADD', stream, last, unpack(words))
    i = i + 5
  end
  return last
end

-- Milliseconds of the server's clock.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
