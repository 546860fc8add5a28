-- Comes into the space as an agent; makes the space where it does not exist.
-- KEYS: those of common.lua.
-- ARGV: 1 agent, 2 whether exclusively (1 or 0), which raises the incarnation of the name, once for each
--   3 name of the request.
-- Rows: entered (version: the incarnation), rules (a record).

local lib = library()
local entered = lib.field('a:' .. ARGV[1]) or {0, ''}
if ARGV[2] == '1' and entered[2] ~= ARGV[3] then
    entered = {entered[1] + 1, ARGV[3]}
    call('HSET', STATE, 'a:' .. ARGV[1], pack(entered))
    lib.fence('a' .. ARGV[1])
end
return {
    {'entered', 0, false, false, false, false, entered[1], false, false, false, false, false, false},
    lib.record('rules', 0, '$rules'),
}
