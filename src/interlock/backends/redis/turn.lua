-- Joins the queues of keys, or renews a ticket, and tells the place.  A question costs the same however long
-- the queue is.
-- KEYS: those of common.lua, then for each key its list m.
-- ARGV: 1 name, 2 agent, 3 ttl in microseconds, 4 ticket or 0, 5 whether it is firm (1 or 0), 6 number of
--   keys, the keys in order, then the names of what the caller has meanwhile.
-- Rows: place (position: the ticket or 0, extra: live tickets ahead, beyond NEAR about so many); wait (key;
--   agent: who waits; body: for whom) for each wait of a cycle in which this ticket joined last; then those
--   of load.lua.

local lib = library()
local now, ttl, number, firm = clock(), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local keys, holding = {}, {}
for i = 1, tonumber(ARGV[6]) do keys[i] = ARGV[6 + i] end
for i = 7 + #keys, #ARGV do holding[#holding + 1] = ARGV[i] end

-- Forget the dead at the heads: they stand in these queues only as long as nobody comes.
for _, key in ipairs(keys) do
    local from = '[' .. key .. '\0'
    for _, member in ipairs(call('ZRANGEBYLEX', QUEUES, from, from .. '\255', 'LIMIT', 0, 4 * NEAR)) do
        local each = tonumber(string.sub(member, -16))
        if lib.ticket(each, now) then break end
        lib.drop_ticket(each)
    end
end

if number > 0 then
    local ticket = lib.ticket(number, now)
    if not ticket then
        number = 0
    else
        local left = ticket[4] - now
        if left < ttl * 0.7 or left > ttl * 1.3 or (firm and not ticket[5]) then
            ticket[3], ticket[4], ticket[5] = now, now + ttl, ticket[5] or firm
            call('HSET', STATE, 't:' .. number, pack(ticket))
        end
    end
else
    local joined = call('HGET', STATE, 'w:' .. ARGV[1])
    if joined then
        number = tonumber(joined)
        if not lib.ticket(number, now) then
            lib.drop_ticket(number)
            joined = false
        end
    end
    if not joined then
        number = call('HINCRBY', STATE, 'n', 1)
        call('HINCRBY', STATE, 'q', 1)
        call('HSET', STATE, 't:' .. number,
            pack({ARGV[1], ARGV[2], now, now + ttl, firm, keys, holding}), 'w:' .. ARGV[1], number)
        for _, key in ipairs(keys) do call('ZADD', QUEUES, 0, lib.member(key, number)) end
        for _, name in ipairs(holding) do lib.set_holder(name, number, true) end
    end
end

-- How many are ahead.  Whoever is first and may be silent for long is given the time of one who is near.
local function count_ahead()
    local near, count, far = {}, 0, 0
    for _, key in ipairs(lib.field('t:' .. number)[6]) do
        local others = lib.queue(key, now, NEAR, number)
        for i, other in ipairs(others) do
            if i == 1 and other[2][4] - now > 2 * ttl then
                other[2][4] = now + ttl
                call('HSET', STATE, 't:' .. other[1], pack(other[2]))
            end
            if not near[other[1]] then count = count + 1 end
            near[other[1]] = true
        end
        if #others == NEAR then
            local before = call('ZLEXCOUNT', QUEUES, '[' .. key .. '\0', '(' .. lib.member(key, number))
            far = math.max(far, math.min(before, 1000))
        end
    end
    return math.max(count, far)
end

-- What a ticket waits for: rows of number, key, who waits, for whom.  Whoever is first in its queues; the
-- holder of a lease that it is queued for; and, where its turn has come, what its caller waits for inside.
local function waits_of(each)
    local found, ticket = {}, lib.field('t:' .. each)
    for _, queue in ipairs(ticket[6]) do
        local first = lib.queue(queue, now, 1)[1]
        if first and first[1] ~= each then
            found[#found + 1] = {first[1], queue, ticket[2], first[2][2]}
        end
        if string.sub(queue, 1, #QUEUE) == QUEUE then
            local lease = lib.field('l:' .. string.sub(queue, #QUEUE + 1))
            if lease and alive(lease[4], lease[5], now) then
                for _, other in ipairs(lib.holders(lease[3], now)) do
                    found[#found + 1] = {other, queue, ticket[2], lease[2]}
                end
            end
        end
    end
    for _, other in ipairs(lib.holders(ticket[1], now)) do found[#found + 1] = {other} end
    return found
end

-- The waits of a cycle in which this ticket joined last: of the shortest, by the first keys.
local function cycle()
    local ticket = lib.field('t:' .. number)
    if not ticket[6][2] and not (ticket[7] and ticket[7][1]) then return {} end  -- nobody can wait for it
    local seen, paths = {[number] = true}, {{number, {}}}
    while paths[1] do
        local path = table.remove(paths, 1)
        for _, wait in ipairs(waits_of(path[1])) do
            local waits = {unpack(path[2])}
            if wait[2] then
                waits[#waits + 1] =
                    {'wait', #waits, wait[2], false, wait[4], false, false, false, wait[3], false, false,
                        false, false}
            end
            if wait[1] == number then return waits end
            if wait[1] < number and not seen[wait[1]] then
                seen[wait[1]] = true
                paths[#paths + 1] = {wait[1], waits}
            end
        end
    end
    return {}
end

local count = number > 0 and count_ahead() or 0
local rows = {{'place', 0, false, false, false, false, false, false, false, false, number, false, count}}
if number > 0 then
    for _, row in ipairs(cycle()) do rows[#rows + 1] = row end
end
rows[#rows + 1] = lib.now_row(now)
if number > 0 and count == 0 then
    for i, key in ipairs(keys) do
        rows[#rows + 1] = lib.record('key', i - 1, key)
        lib.add_others(rows, key, now)
    end
end
return rows
