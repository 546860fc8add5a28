-- Existing keys under a prefix, in order, without their values.
-- KEYS: those of common.lua.
-- ARGV: 1 prefix, 2 first key, 3 end or '', 4 key that they come after or '', 5 how many, at most,
--   6 whether deleted ones, too (1).
-- Rows: key, version, epoch, agent, time, position.

local PAGE = 1000
local lib = library()
local rows, limit, now = {}, tonumber(ARGV[5]), clock()
local from, upto = '[' .. ARGV[2], ARGV[3] == '' and '+' or '(' .. ARGV[3]
repeat
    local found = call('ZRANGEBYLEX', NAMES, from, upto, 'LIMIT', 0, PAGE)
    for _, key in ipairs(found) do
        if key ~= ARGV[4] and (ARGV[1] ~= '' or string.sub(key, 1, 1) ~= '$') then
            local head = lib.field('h:' .. key)
            if head and (ARGV[6] == '1' and head[1] > 0 or as_of(head[3], now) > 0) then
                rows[#rows + 1] = {key, head[1], head[2], head[6], head[5], head[4]}
                if #rows == limit then return rows end
            end
        end
    end
    from = '(' .. (found[#found] or '')
until #found < PAGE
return rows
