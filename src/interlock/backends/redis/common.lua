-- What every script of the Redis dialect begins with.  Each script answers one request in one call, so
-- that what it reads and writes is one moment.  Values are texts here, never decoded: Lua would damage
-- large integers and empty arrays.
--
-- All keys of a space hold its name in braces, so that they share one hash slot:
--   KEYS[1]  interlock:{name}          hash, the state; its fields are
--              uid, schema             of the space
--              p, t                    position and time of the last log entry
--              r                       version of the rules in force
--              q, n                    number of tickets in the queues; number of the last one given
--              h:<key>                 head: version, epoch, position, live, time, agent (packed)
--              b:<key>                 the value of a live head
--              f:<key>                 fold of a merged key: position, body or false (packed)
--              l:<key>                 lease: epoch, holder, name, renewed, expires (packed)
--              a:<agent>               incarnation, name of the request that raised it (packed)
--              o:<operation id>        position of its first entry, number of entries (packed)
--              t:<ticket>              name, agent, renewed, expires, firm, keys (packed)
--              w:<name>                the ticket that was joined under a name
--   KEYS[2]  interlock:{name}:log      stream; the id of an entry is <position>-0.  Fields: k key, v version,
--                                      e epoch, c kind, b body, a agent, t time, o operation id, r reads
--   KEYS[3]  interlock:{name}:keys     sorted set, every key ever written, in the order of their bytes
--   KEYS[4]  interlock:{name}:queues   sorted set of <key> NUL <ticket, 16 digits>
--   further  interlock:{name}:i:<key>  list, the positions of the key's entries
--            interlock:{name}:m:<key>  list, the contributions since the fold: <position>:<body>
-- live: 0 deleted, or leased and never written (version 0); 1 a value; 2 contributions.
-- Times are microseconds since 1970 by the server's clock.  A row of an answer is
-- what, n, key, kind, body, base, version, epoch, agent, time, position, live, extra (see answers.py).

local STATE, LOG, NAMES, QUEUES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local CHUNK = 1000  -- arguments of one call
local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack

local function clock()
    local now = call('TIME')
    return now[1] * 1000000 + now[2]
end

local function text(number)
    return string.format('%.0f', number)
end

local function field(name)
    local packed = call('HGET', STATE, name)
    return packed and unpacked(packed) or nil
end

local function number_of(name)
    return tonumber(call('HGET', STATE, name) or 0)
end

-- Whether a lease or ticket holds.  One renewed in the future is dead: the clock stepped back.
local function alive(renewed, expires, now)
    return expires > now and renewed <= now + 1000000
end

local function list_of(kind, key)
    return STATE .. ':' .. kind .. ':' .. key
end

-- An entry of the log at a position, its fields by name, or nil.
local function entry_at(position)
    local found = call('XRANGE', LOG, text(position), text(position))[1]
    if not found then return nil end
    local entry, fields = {p = position}, found[2]
    for i = 1, #fields, 2 do entry[fields[i]] = fields[i + 1] end
    return entry
end

-- The first place in a list of positions that holds one above `position` (1 is the first place).
local function place_after(list, position)
    local low, high = 1, call('LLEN', list) + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        if tonumber(call('LINDEX', list, middle - 1)) > position then
            high = middle
        else
            low = middle + 1
        end
    end
    return low
end

-- Contributions after one position and up to another: a JSON array, and how many.
local function contributions(key, after, upto)
    local bodies = {}
    for _, item in ipairs(call('LRANGE', list_of('m', key), 0, -1)) do
        local colon = string.find(item, ':', 1, true)
        local position = tonumber(string.sub(item, 1, colon - 1))
        if position > after and position <= upto then
            bodies[#bodies + 1] = string.sub(item, colon + 1)
        end
    end
    return '[' .. table.concat(bodies, ',') .. ']', #bodies
end

-- The record of a key, now.
local function record(what, n, key)
    local head = field('h:' .. key)
    if not head then
        return {what, n, key, false, false, false, 0, 0, false, 0, 0, 0, false}
    end
    local version, epoch, position, live, time, agent =
        head[1], head[2], head[3], head[4], head[5], head[6]
    local body, base, extra = false, false, false
    if live == 1 then
        body = call('HGET', STATE, 'b:' .. key)
    elseif live == 2 then
        local fold = field('f:' .. key) or {0, false}
        base = fold[2]
        body, extra = contributions(key, fold[1], position)
    end
    return {what, n, key, false, body, base, version, epoch, agent, time, position, live, extra}
end

-- The entries of an operation, in order.
local function operation(op, n)
    local done, rows = field('o:' .. op), {}
    if done then
        for position = done[1], done[1] + done[2] - 1 do
            local e = entry_at(position)
            rows[#rows + 1] = {'op', n, e.k, e.c, e.c ~= 'delete' and e.b, false, tonumber(e.v),
                tonumber(e.e), e.a, tonumber(e.t), position, false, false}
        end
    end
    return rows
end

-- Whether a commit that the caller knows of (position '0': none) is not in the log: commits were lost.
local function is_lost(position, op)
    if position == '0' then return false end
    local done, at = field('o:' .. op), tonumber(position)
    return not done or at < done[1] or at >= done[1] + done[2]
end

-- Writes what is there already.  Whoever waits for replicas after a request that was sent twice waits for
-- what his own connection wrote, and so for what the first sending wrote before.
local function write_again(name)
    redis.pcall('HSET', STATE, name, call('HGET', STATE, name))  -- refused where memory is full
end

-- The live tickets in the queue of a key, first come first: pairs of number and ticket.
local function queue(key, now)
    local found = {}
    if number_of('q') == 0 then return found end
    local from = '[' .. key .. '\0'
    for _, member in ipairs(call('ZRANGEBYLEX', QUEUES, from, from .. '\255')) do
        local number = tonumber(string.sub(member, -16))
        local ticket = field('t:' .. text(number))
        if ticket and alive(ticket[3], ticket[4], now) then
            found[#found + 1] = {number, ticket}
        end
    end
    return found
end

local function drop_ticket(number)
    local ticket = field('t:' .. text(number))
    if not ticket then return end
    for _, key in ipairs(ticket[6]) do
        call('ZREM', QUEUES, key .. '\0' .. string.format('%016.0f', number))
    end
    call('HDEL', STATE, 't:' .. text(number), 'w:' .. ticket[1])
    call('HINCRBY', STATE, 'q', -1)
end

-- The first row of a snapshot.
local function now_row(now)
    return {'now', 0, false, false, false, false, 0, 0, false, now, number_of('p'), 0, number_of('r')}
end
