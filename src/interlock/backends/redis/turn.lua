-- Joins the queues of keys, or renews a ticket, and tells the place.
-- KEYS: those of common.lua, then for each key its list m.
-- ARGV: 1 name, 2 agent, 3 ttl in microseconds, 4 ticket or 0, 5 whether it is firm (1 or 0), 6 number of
--   keys, the keys.
-- Rows: place (position: the ticket or 0, extra: live tickets ahead), then those of load.lua.

local lib = library()
local now, ttl, number, firm = clock(), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local keys = {}
for i = 1, tonumber(ARGV[6]) do keys[i] = ARGV[6 + i] end

-- Forget the dead: they stand in these queues only as long as nobody comes.
for _, key in ipairs(keys) do
    local from = '[' .. key .. '\0'
    for _, member in ipairs(call('ZRANGEBYLEX', QUEUES, from, from .. '\255')) do
        local each = tonumber(string.sub(member, -16))
        local ticket = lib.field('t:' .. each)
        if not ticket or not alive(ticket[3], ticket[4], now) then lib.drop_ticket(each) end
    end
end

if number > 0 then
    local ticket = lib.field('t:' .. number)
    if not ticket or not alive(ticket[3], ticket[4], now) then
        number = 0
    elseif ticket[4] - now < ttl * 0.7 or (firm and not ticket[5]) then
        ticket[3], ticket[4], ticket[5] = now, now + ttl, ticket[5] or firm
        call('HSET', STATE, 't:' .. number, pack(ticket))
    end
else
    local joined = call('HGET', STATE, 'w:' .. ARGV[1])
    if joined then
        number = tonumber(joined)
        local ticket = lib.field('t:' .. joined)
        if not alive(ticket[3], ticket[4], now) then
            lib.drop_ticket(number)
            joined = false
        end
    end
    if not joined then
        number = call('HINCRBY', STATE, 'n', 1)
        call('HINCRBY', STATE, 'q', 1)
        call('HSET', STATE, 't:' .. number, pack({ARGV[1], ARGV[2], now, now + ttl, firm, keys}),
            'w:' .. ARGV[1], number)
        for _, key in ipairs(keys) do
            call('ZADD', QUEUES, 0, key .. '\0' .. string.format('%016.0f', number))
        end
    end
end

local ahead, count = {}, 0
if number > 0 then
    for _, key in ipairs(lib.field('t:' .. number)[6]) do
        for _, other in ipairs(lib.queue(key, now)) do
            if other[1] < number and not ahead[other[1]] then
                ahead[other[1]] = true
                count = count + 1
            end
        end
    end
end
local rows = {
    {'place', 0, false, false, false, false, false, false, false, false, number, false, count},
    lib.now_row(now),
}
if number > 0 and count == 0 then
    for i, key in ipairs(keys) do
        rows[#rows + 1] = lib.record('key', i - 1, key)
        lib.add_others(rows, key, now)
    end
end
return rows
