-- Keeps a fold as of a position, never over a later one, where the rules are still those given.
-- KEYS: those of common.lua, then the list m of the key.
-- ARGV: 1 key, 2 position, 3 body, 4 version of the rules.

local lib = library()
local position, fold = tonumber(ARGV[2]), lib.field('f:' .. ARGV[1]) or {0, false}
if lib.number_of('r') ~= tonumber(ARGV[4]) or position <= fold[1] then return {} end
call('HSET', STATE, 'f:' .. ARGV[1], pack({position, ARGV[3]}))
local item = call('LINDEX', KEYS[5], 0)
while item and tonumber(string.sub(item, 1, string.find(item, ':', 1, true) - 1)) <= position do
    call('LPOP', KEYS[5])
    item = call('LINDEX', KEYS[5], 0)
end
return {}
