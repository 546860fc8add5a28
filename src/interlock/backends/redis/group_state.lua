-- A group as it is.
-- KEYS: those of common.lua and groups.lua.  ARGV: 1 number of pending entries that are listed, at most.
-- Rows: those of group_state in groups.sql of the PostgreSQL dialect.

check_group()
local now = clock()
local found = call('HMGET', GROUP, 'prefix', 'cursor')
if not found[1] then return {} end
local rows = {
    {'group', 0, found[1], false, false, false, false, false, false, false, tonumber(found[2]), false,
        lib.number_of('p')},
}
for _, member in ipairs(members('c')) do
    local name = string.sub(member, 2)
    local c = field('c:' .. name)
    local living = alive(c[1], c[1] + c[2], now) and 1 or 0
    local count = tonumber(call('HGET', GROUP, 'n:' .. name) or 0)
    rows[#rows + 1] = {'consumer', 0, false, false, false, false, false, false, name, c[1], false, living,
        count}
end
for _, member in ipairs(members('p', tonumber(ARGV[1]))) do
    local at = place_of(member)
    local pending = field('e:' .. at)
    rows[#rows + 1] = {'pending', 0, pending[1], false, false, false, false, false,
        field('k:' .. pending[1])[1], false, tonumber(at), false, pending[3]}
end
return rows
