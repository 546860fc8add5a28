-- As load.lua, as of a position or a time.
-- KEYS: those of common.lua, then for each key its list m.
-- ARGV: 1 position or '', 2 time or '', 3 number of keys, the keys, number of prefixes, for each prefix and
--   end or ''.  Rows: now, key, scan; or, alone, pruned (extra: the position that the log is cut up to).

local lib = library()
local last, floor = lib.number_of('p'), lib.number_of('c')
local function position_at(time)  -- times never fall along the log
    local low, high = floor, last
    while low < high do
        local middle = math.floor((low + high + 1) / 2)
        if lib.entry_at(middle).t <= time then low = middle else high = middle - 1 end
    end
    return low == floor and lib.number_of('d') > time and -1 or low
end
local position
if ARGV[1] ~= '' then
    position = math.min(tonumber(ARGV[1]), last)
else
    position = position_at(tonumber(ARGV[2]))
end
if position < floor then return {{'pruned', 0, false, false, false, false, 0, 0, false, 0, 0, 0, floor}} end
local LIVE = {put = 1, append = 2, delete = 0}
local then_us = ARGV[1] == '' and tonumber(ARGV[2]) or 0  -- as of when values have expired

local function live_of(kind, expires)
    return expires and expires > 0 and as_of(expires, then_us) or LIVE[kind]
end

-- What a merged key was folded from then: out of the list, or out of the log where the list has moved on.
local function tail(key, version, versions)
    local fold = lib.field('f:' .. key) or {0, false}
    if fold[1] <= position then
        local body, count = lib.contributions(key, fold[1], position, lib.field('h:' .. key), fold)
        return body, fold[2], count
    end
    local bodies, base, cut = {}, false, lib.field('z:' .. key)
    for each = version, 1, -1 do
        if cut and each == cut[2] then
            base = cut[4] == 'append' and cut[7]
            break
        end
        local e = lib.entry_at(lib.position_of(key, each, versions))
        if e.c == 'delete' then break end
        if e.c == 'append' and e.b then table.insert(bodies, 1, e.b) end
    end
    return '[' .. table.concat(bodies, ',') .. ']', base, #bodies
end

local function record_at(what, n, key)
    local version, versions = lib.version_after(key, position)
    version = version - 1
    if version == 0 then
        return {what, n, key, false, false, false, 0, 0, false, 0, 0, 0, false}
    end
    local cut = lib.field('z:' .. key)
    if cut and cut[2] == version then
        local live, body = live_of(cut[4], cut[8]), cut[7]
        local merged = live == 2
        return {what, n, key, false, merged and '[]' or body, merged and body, version, cut[3], cut[6],
            cut[5], cut[1], live, merged and 0}
    end
    local e = lib.entry_at(lib.position_of(key, version, versions))
    local live, body, base, extra = live_of(e.c, e.x), e.b, false, false
    if live == 2 then body, base, extra = tail(key, version, versions) end
    return {what, n, key, false, body, base, e.v, e.e, e.a, e.t, e.p, live, extra}
end

local rows = {lib.now_row(clock())}
rows[1][11] = position
local at = 4
for i = 1, tonumber(ARGV[3]) do
    rows[#rows + 1] = record_at('key', i - 1, ARGV[at])
    at = at + 1
end
at = at + 1
for i = 1, tonumber(ARGV[at - 1]) do
    local upto = ARGV[at + 1] == '' and '+' or '(' .. ARGV[at + 1]
    for _, key in ipairs(call('ZRANGEBYLEX', NAMES, '[' .. ARGV[at], upto)) do
        if ARGV[at] ~= '' or string.sub(key, 1, 1) ~= '$' then
            local row = record_at('scan', i - 1, key)
            if row[12] > 0 and row[5] then rows[#rows + 1] = row end
        end
    end
    at = at + 2
end
return rows
