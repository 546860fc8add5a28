-- Keeps a projection as of a position, never over a later one, where the log is there from it on.
-- KEYS: those of common.lua, then that of the positions of the projections.
-- ARGV: 1 name, 2 position, 3 body, 4 number of steps that had erased values ('': made of no entry).

local lib = library()
local name, position = ARGV[1], tonumber(ARGV[2])
local before = tonumber(call('ZSCORE', KEYS[5], name) or -1)
local same = ARGV[4] == '' or tonumber(ARGV[4]) == lib.number_of('e')
if same and position > before and position >= lib.number_of('c') and position <= lib.number_of('p') then
    call('HSET', STATE, 'v:' .. name, pack({position, ARGV[3]}))
    call('ZADD', KEYS[5], position, name)
end
return {}
