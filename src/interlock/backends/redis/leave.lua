-- Gives up a ticket, or (0) the one that was joined under a name.
-- KEYS: those of common.lua.  ARGV: 1 ticket or 0, 2 name.

local lib = library()
local number = tonumber(ARGV[1])
if number == 0 then number = tonumber(call('HGET', STATE, 'w:' .. ARGV[2]) or 0) end
if number > 0 then lib.drop_ticket(number) end
return {}
