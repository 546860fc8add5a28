-- A consistent set of records and scans.
-- KEYS: those of common.lua, then for each key its list m.
-- ARGV: 1 operation id or '', 2 and 3 position and operation id of a commit that the caller knows of (0:
--   none), 4 number of keys, the keys, number of prefixes, for each prefix and end or ''.
-- Rows: now, key, scan, queued, lease, op (see functions.sql of the PostgreSQL dialect); or, alone, back
--   (position): that commit is not in the log: commits were lost.

local lib = library()
local now, keys = clock(), {}
if is_lost(ARGV[2], ARGV[3]) then
    return {{'back', 0, false, false, false, false, 0, 0, false, now, lib.number_of('p'), 0, lib.number_of('r')}}
end
local rows = {lib.now_row(now)}
local at = 5
for i = 1, tonumber(ARGV[4]) do
    keys[i] = ARGV[at]
    rows[#rows + 1] = lib.record('key', i - 1, ARGV[at])
    at = at + 1
end
at = at + 1
for i = 1, tonumber(ARGV[at - 1]) do
    local upto = ARGV[at + 1] == '' and '+' or '(' .. ARGV[at + 1]
    for _, key in ipairs(call('ZRANGEBYLEX', NAMES, '[' .. ARGV[at], upto)) do
        if ARGV[at] ~= '' or string.sub(key, 1, 1) ~= '$' then
            local row = lib.record('scan', i - 1, key)
            if row[12] > 0 then rows[#rows + 1] = row end
        end
    end
    at = at + 2
end
for _, key in ipairs(keys) do
    lib.add_others(rows, key, now)
end
if ARGV[1] ~= '' then
    for _, row in ipairs(lib.operation(ARGV[1], 0)) do rows[#rows + 1] = row end
end
return rows
