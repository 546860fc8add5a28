-- Entries are done.  What the consumer acknowledged last counts again: it is sent twice.
-- KEYS: those of common.lua and groups.lua.
-- ARGV: 1 consumer, then for each entry its position and which delivery of it is done; one that was delivered
--   again since is being handled again.
-- Answers how many of them were this consumer's.

check_group()
local consumer = ARGV[1]
local c = field('c:' .. consumer)
if not c then return 0 end

local function done(at, pending, delivery)
    local key = pending[1]
    local held = field('k:' .. key)
    if held[1] ~= consumer or pending[3] ~= delivery then return false end
    hand(key, held)
    call('ZREM', DEALT, 'k' .. key .. NUL .. at, 'p' .. at, 'b' .. pending[2] .. NUL .. at)
    call('HDEL', GROUP, 'e:' .. at)
    call('HINCRBY', GROUP, 'n:' .. consumer, -1)
    if next_of(key, NONE) then hand(key, held, held) end
    return true
end

local before, counted, changed = {}, {}, false
for _, position in ipairs(c[3]) do before[position] = true end
for i = 2, #ARGV, 2 do
    local position = tonumber(ARGV[i])
    local at = place(position)
    local pending = field('e:' .. at)
    local gone = pending and done(at, pending, tonumber(ARGV[i + 1]))
    changed = changed or gone
    if gone or before[position] then
        counted[#counted + 1] = position
        before[position] = nil
    end
end
call('HSET', GROUP, 'c:' .. consumer, pack({clock(), c[2], changed and counted or c[3]}))
return #counted
