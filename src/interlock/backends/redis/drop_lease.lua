-- Gives up a lease held at an epoch, or (0) the one that was taken under a name.
-- KEYS: those of common.lua.  ARGV: 1 key, 2 epoch, 3 name.

local lib = library()
local lease, epoch = lib.field('l:' .. ARGV[1]), tonumber(ARGV[2])
if lease and ((epoch > 0 and lease[1] <= epoch) or (epoch == 0 and lease[3] == ARGV[3])) then
    call('HDEL', STATE, 'l:' .. ARGV[1])
end
return {}
