-- Registers a consumer: its name, and a group on both streams that begins at their
-- beginning.
-- KEYS: 1 checkpoint, 2 consumers. ARGV: 1 the tag of all keys, 2 name.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local new = redis.call('HSETNX', KEYS[2], ARGV[2], string.format('%.0f', now()))
if epoch then
  for _, lane in ipairs({'changes', 'bootstrap'}) do
    local reply = redis.pcall('XGROUP', 'CREATE', ARGV[1] .. ':' .. epoch .. ':' .. lane,
      ARGV[2], '0', 'MKSTREAM')
    if reply['err'] and not reply['err']:find('BUSYGROUP') then
      return reply
    end
  end
end
return new
