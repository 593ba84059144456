-- Dead letters, written in the step that publishes what is around their rows. The words
-- begin at ARGV[i]: how many there may be, how many are closed, how many are new, then the
-- ids of the closed ones and the texts of the new ones.

-- What to answer if there is no room, with how many there are; else nil. To be asked before
-- anything is written. A step that has more than may be at all is taken when nothing else
-- lies there, or it would wait for ever.
local function full(dead, i)
  local there, added = redis.call('XLEN', dead), tonumber(ARGV[i + 2])
  local left = there - tonumber(ARGV[i + 1])
  if added > 0 and left > 0 and left + added > tonumber(ARGV[i]) then
    return {'FULL', there}
  end
  return nil
end

-- Closes and writes; answers where the next words begin.
local function letters(dead, i)
  local closed, added = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  i = i + 3
  for at = i, i + closed - 1 do
    redis.call('XDEL', dead, ARGV[at])
  end
  for at = i + closed, i + closed + added - 1 do
    redis.call('XADD', dead, '*', 'd', ARGV[at])
  end
  return i + closed + added
end
