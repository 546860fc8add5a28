-- Gives a consumer at most so many entries: what it was given by the same request before; else its own
-- first, then those of dead consumers, then the log's next.
-- KEYS: those of common.lua and groups.lua.
-- ARGV: 1 group, 2 consumer, 3 prefix, 4 where a new group begins (-1: at the end of the log), 5 limit (0: a
--   sign of life), 6 ttl in microseconds, 7 whether what was given before is given again (1 or 0), 8 name of
--   the request, 9 positions of the log that are looked at, at most, 10 microseconds after which a dead
--   consumer with nothing pending is forgotten.
-- Answers a row about the group: what it has dealt the log up to, its prefix, where the log ends, 4 times
--   nothing, the time (the first of the nothings where a new group would begin before what is kept, and is
--   not made: the position that the log is cut up to); then the entries: position, key, version, epoch, kind, body, agent, time, operation
--   id, reads, how often it was delivered.

local MOST = 1000  -- keys of one dead consumer that are looked at
local BYTES = 4194304  -- of the values of one answer, beside the last
local FEW = 50  -- entries of the log that are read at once
local consumer, prefix, start, limit = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local ttl, name, now, last = tonumber(ARGV[6]), ARGV[8], clock(), lib.number_of('p')

check_whole(last, lib.number_of('c'))
check_group()
local found = call('HMGET', GROUP, 'prefix', 'cursor', 'c:' .. consumer)
local theirs, cursor, known = found[1], tonumber(found[2] or 0), found[3] and unpacked(found[3])

local function answer(rows)
    table.insert(rows, 1, {cursor, theirs, last, false, false, false, false, now, false, false, false})
    return rows
end

if not theirs then
    theirs, cursor = prefix, last
    if limit == 0 then return answer({}) end
    local floor = lib.number_of('c')
    if start > 0 and start < floor then
        return {{cursor, theirs, last, floor, false, false, false, now, false, false, false}}
    end
    if start >= 0 then cursor = math.max(math.min(start, last), floor) end
    call('HSET', GROUP, 'prefix', prefix, 'cursor', cursor)
    call('ZADD', GROUPS, 0, ARGV[1])
end
if theirs ~= prefix or (limit == 0 and not known) then return answer({}) end
if cursor < lib.number_of('c') then missing(LOG, 'was cut before the group had read it') end

-- Entries

local function is_dead(c)
    return not alive(c[1], c[1] + c[2], now)
end

local function sign_of_life()
    call('HSET', GROUP, 'c:' .. consumer, pack({now, ttl, known and known[3] or {}}))
end

-- Forgets those dead for long that have nothing pending.
local function forget()
    for _, member in ipairs(members('c')) do
        local other = string.sub(member, 2)
        local c = field('c:' .. other)
        if c[1] + c[2] < now - tonumber(ARGV[10]) and not members('h' .. other .. NUL, 1)[1] then
            call('HDEL', GROUP, 'c:' .. other, 'n:' .. other)
            call('ZREM', DEALT, member)
        end
    end
end

-- What was delivered under the name of the request.
local function delivered()
    local rows = {}
    for _, member in ipairs(members('b' .. name .. NUL)) do
        local at = place_of(member)
        local pending = field('e:' .. at)
        local held = field('k:' .. pending[1])
        local e = held[1] == consumer and at <= held[2] and lib.entry_at(tonumber(at))
        if e then
            rows[#rows + 1] = {e.p, e.k, e.v, e.e, e.c, e.b, e.a, e.t, e.o, e.r, e.x, pending[3]}
        end
    end
    return rows
end

-- How many entries wait to be delivered to the consumer, as far as it asked for.
local function room()
    local left = limit
    for _, member in ipairs(members('w' .. consumer .. NUL, limit)) do
        local key = field('e:' .. place_of(member))[1]
        left = left - count_of(key, field('k:' .. key)[2])
        if left <= 0 then break end
    end
    return left
end

-- What was delivered to a consumer counts as not delivered.
local function undeliver(whose, most)
    local from = 'h' .. whose .. NUL .. '1'
    for _, member in ipairs(members(from, most)) do
        local key = string.sub(member, #from + 1)
        hand(key, field('k:' .. key), {whose, NONE})
    end
end

-- The keys of the first so many entries that wait for a consumer.
local function first_keys(whose, most)
    local fresh, keys, nexts = members('w' .. whose .. NUL, most), {}, {}
    for _ = 1, most do
        local at, from = fresh[#keys + 1], nil
        at = at and place_of(at)
        for i = 1, #keys do
            if nexts[i] and (not at or nexts[i] < at) then at, from = nexts[i], i end
        end
        if not at then break end
        if not from then
            from = #keys + 1
            keys[from] = field('e:' .. at)[1]
        end
        nexts[from] = next_of(keys[from], at) or false
    end
    return keys
end

-- Takes keys over from dead consumers, each with all its entries, until there is enough.
local function claim()
    local from = 'h'
    while true do
        local left = room()
        local member = left > 0 and call('ZRANGEBYLEX', DEALT, '(' .. from, '(i', 'LIMIT', 0, 1)[1]
        if not member then return end
        local other = string.sub(member, 2, string.find(member, NUL, 1, true) - 1)
        if is_dead(field('c:' .. other)) then
            undeliver(other, MOST)  -- its entries now come in the log's order
            for _, key in ipairs(first_keys(other, left)) do
                hand(key, field('k:' .. key), {consumer, NONE})
            end
        end
        from = 'h' .. other .. NUL .. '\255'
    end
end

-- Deals an entry: to who holds its key, or to this consumer.  Says to whom.
local function deal(at, key)
    local held = field('k:' .. key)
    local first = not held or not next_of(key, held[2])
    if not held then
        held = {consumer, NONE}
        call('HSET', GROUP, 'k:' .. key, pack(held))
        call('ZADD', DEALT, 0, holding(key, held))
    end
    if first then call('ZADD', DEALT, 0, 'w' .. held[1] .. NUL .. at) end
    call('ZADD', DEALT, 0, 'k' .. key .. NUL .. at, 0, 'p' .. at)
    call('HSET', GROUP, 'e:' .. at, pack({key, '', 0}))
    call('HINCRBY', GROUP, 'n:' .. held[1], 1)
    return held[1]
end

-- Deals the log's next entries until the consumer has enough.
local function deal_more()
    local left, upto, looked = room(), math.min(last, cursor + tonumber(ARGV[9])), false
    while left > 0 and cursor < upto do
        local entries = call('XRANGE', LOG, cursor + 1, upto, 'COUNT', FEW)
        if not entries[1] then cursor, looked = upto, true end
        for _, entry in ipairs(entries) do
            local key = entry[2][2]
            cursor, looked = tonumber(string.sub(entry[1], 1, -3)), true
            if string.sub(key, 1, #prefix) == prefix and string.sub(key, 1, 1) ~= '$'
                and deal(place(cursor), key) == consumer
            then
                left = left - 1
                if left == 0 then break end
            end
        end
    end
    if looked then call('HSET', GROUP, 'cursor', cursor) end
    return looked
end

-- Delivers the first entries that wait.
local function deliver()
    local bytes = 0
    for _ = 1, limit do
        local member = members('w' .. consumer .. NUL, 1)[1]
        if not member or bytes >= BYTES then return end
        local at = place_of(member)
        local pending = field('e:' .. at)
        local key, before = pending[1], pending[2]
        local held = field('k:' .. key)
        local following = next_of(key, at)
        call('ZREM', DEALT, member, holding(key, held), 'b' .. before .. NUL .. at)
        held[2] = at
        call('ZADD', DEALT, 0, holding(key, held), 0, 'b' .. name .. NUL .. at)
        if following then call('ZADD', DEALT, 0, 'w' .. consumer .. NUL .. following) end
        call('HSET', GROUP, 'k:' .. key, pack(held), 'e:' .. at, pack({key, name, pending[3] + 1}))
        local entry = limit > 1 and lib.entry_at(tonumber(at))
        bytes = bytes + (entry and #(entry.b or '') or 0)
    end
end

-- A consumer for which there is nothing writes nothing, unless its last sign of life is a while ago.
local fresh = limit > 0 and known and not is_dead(known) and known[1] + known[2] - now >= ttl * 0.7
if not fresh then sign_of_life() end
if limit == 0 then return answer({}) end
if not known then
    call('ZADD', DEALT, 0, 'c' .. consumer)
    forget()
end
local rows, changed = delivered(), ARGV[7] == '1'
if not rows[1] then
    if changed then undeliver(consumer) end
    claim()
    changed = deal_more() or changed
    deliver()
    rows = delivered()
end
if fresh and (changed or rows[1]) then sign_of_life() end
return answer(rows)
