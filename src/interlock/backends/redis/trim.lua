-- Cuts the log up to a position, the end of a commit, where no consumer group and no kept projection needs
-- what is cut.
-- KEYS: those of common.lua, then that of the names of the groups (see groups.lua), then that of the
--   positions of the projections.
-- ARGV: 1 position (0: cut nothing), 2 number of steps that had erased values when the folds were made, then
--   for each merged key that was appended to last: key, its fold there.
-- Answers {the position that the log is cut up to, the first that a group or projection needs or false, its name,
--   how many entries were cut, how many steps have erased values}.

local lib = library()
local upto, floor, needed, by = tonumber(ARGV[1]), lib.number_of('c'), false, false
check_whole(call('HGET', STATE, 'p'), floor)
local oldest = call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
if oldest[1] then needed, by = tonumber(oldest[2]) + 1, oldest[1] end
for _, name in ipairs(call('ZRANGE', KEYS[5], 0, -1)) do
    local first = tonumber(call('HGET', lib.list_of('g', name), 'cursor')) + 1
    local pending = call('ZRANGEBYLEX', lib.list_of('d', name), '[p', '(p\255', 'LIMIT', 0, 1)[1]
    if pending then first = math.min(first, tonumber(string.sub(pending, 2))) end
    if not needed or first < needed or first == needed and name < by then needed, by = first, name end
end
local erasures = lib.number_of('e')
if upto <= floor or needed and upto >= needed or erasures ~= tonumber(ARGV[2]) then
    return {floor, needed, by, 0, erasures}
end

local folds, first, last, time = {}, {}, {}, 0
for i = 3, #ARGV, 2 do folds[ARGV[i]] = ARGV[i + 1] end
for _, found in ipairs(call('XRANGE', LOG, floor + 1, upto)) do
    local e = lib.entry(found)
    first[e.k], last[e.k], time = first[e.k] or e.v, e, e.t
    call('HDEL', STATE, 'o:' .. e.o)
end

for key, e in pairs(last) do
    local fold = folds[key]
    call('HSET', STATE, 'z:' .. key, pack({e.p, e.v, e.e, e.c, e.t, e.a, fold or e.b, e.x}))
    if fold then lib.keep_fold(key, e.p, fold) end
    for number = math.floor((first[key] - 1) / BLOCK), math.floor(e.v / BLOCK) - 1 do
        call('HDEL', STATE, 'j:' .. number .. ':' .. key)
    end
end
call('XTRIM', LOG, 'MINID', upto + 1)
call('HSET', STATE, 'c', upto, 'd', text(time))
return {upto, needed, by, upto - floor, erasures}
