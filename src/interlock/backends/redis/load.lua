-- A consistent set of records and scans.
-- KEYS: those of common.lua, then for each key its list m.
-- ARGV: 1 operation id or '', 2 and 3 position and operation id of a commit that the caller knows of (0:
--   none), 4 number of keys, the keys, number of prefixes, for each prefix and end or ''.
-- Rows: now, key, scan, queued, lease, op (see functions.sql of the PostgreSQL dialect); or, alone, back
--   (position): that commit is not in the log: commits were lost.

local now, keys = clock(), {}
local rows = {now_row(now)}
if is_lost(ARGV[2], ARGV[3]) then
    rows[1][1] = 'back'
    return rows
end
local at = 5
for i = 1, tonumber(ARGV[4]) do
    keys[i] = ARGV[at]
    rows[#rows + 1] = record('key', i - 1, ARGV[at])
    at = at + 1
end
at = at + 1
for i = 1, tonumber(ARGV[at - 1]) do
    local upto = ARGV[at + 1] == '' and '+' or '(' .. ARGV[at + 1]
    for _, key in ipairs(call('ZRANGEBYLEX', NAMES, '[' .. ARGV[at], upto)) do
        if string.sub(key, 1, 1) ~= '$' then
            local row = record('scan', i - 1, key)
            if row[12] > 0 then rows[#rows + 1] = row end
        end
    end
    at = at + 2
end
for _, key in ipairs(keys) do
    local waiting = #queue(key, now)
    if waiting > 0 then
        rows[#rows + 1] = {'queued', 0, key, false, false, false, false, false, false, false, false,
            false, waiting}
    end
    local lease = field('l:' .. key)
    if lease and alive(lease[4], lease[5], now) then
        rows[#rows + 1] = {'lease', 0, key, false, false, false, false, lease[1], lease[2],
            lease[5] - now, false, false, false}
    end
end
if ARGV[1] ~= '' then
    for _, row in ipairs(operation(ARGV[1], 0)) do rows[#rows + 1] = row end
end
return rows
