-- Stores a text, a phase or what the chain covers, if the expected one is found.
-- KEYS: 1 where. ARGV: 1 '1' if a state must be found, 2 that state, 3 the new one.
local state = redis.call('GET', KEYS[1])
if (ARGV[1] == '1' and state ~= ARGV[2]) or (ARGV[1] ~= '1' and state) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
return 1
