-- What every script of the Redis dialect begins with.  Each script answers one request in one call, so
-- that what it reads and writes is one moment.  Values are texts here, never decoded: Lua would damage
-- large integers and empty arrays.
--
-- All keys of a space hold its name in braces, so that they share one hash slot:
--   KEYS[1]  interlock:{name}          hash, the state; its fields are
--              uid, schema             of the space
--              importing, floor        source of an import that is not finished: nobody else can open the
--                                      space; and the position that the log is cut up to in what it brings
--              p, t                    position and time of the last log entry
--              r                       version of the rules in force
--              c, d                    position that the log is cut up to; time of the entry there
--              x                       length of the longest value of the log, where it is above LONG
--              e                       number of steps that have erased values, so that no cache brings back
--                                      what was read before
--              ep, ec                  while entries are erased: how many, and the position up to which the
--                                      log is copied without their values
--              q, n                    number of tickets in the queues; number of the last one given
--              h:<key>                 head: version, epoch, live, position, time, agent, and of a merged key
--                                      the length of its list m, from schema 2 on (packed)
--              b:<key>                 the value of a live head; '' where it was erased
--              f:<key>                 fold of a merged key: position, body or false (packed)
--              l:<key>                 lease: epoch, holder, name, renewed, expires (packed)
--              a:<agent>               incarnation, name of the request that raised it (packed)
--              o:<operation id>        position of its first entry, number of entries (packed)
--              i:<key>                 positions of the key's last entries, below a full block of them
--              j:<block>:<key>         positions of its entries by version, 64 in each block from 0 on; not
--                                      of the blocks that were cut
--              z:<key>                 what a key was where the log is cut: position, version, epoch, kind,
--                                      time, agent, body (of a merged key: its fold), when it expires or false
--                                      (packed)
--              t:<ticket>              name, agent, renewed, expires, firm, keys, and where anything is held
--                                      meanwhile the names of it (packed)
--              k:<name>                the tickets whose callers have meanwhile what was granted under a
--                                      name (packed)
--              w:<name>                the ticket that was joined under a name
--              v:<name>                what is kept of a projection: position, body (packed)
--   KEYS[2]  interlock:{name}:log      stream; the id of an entry is <position>-0.  Fields: k key, o operation
--                                      id, m `version epoch kind time agent`, b body, r reads (where any),
--                                      x when the value expires (where it does).  No body, but no
--                                      deletion: erased
--   KEYS[3]  interlock:{name}:keys     sorted set, every key ever written, in the order of their bytes
--   KEYS[4]  interlock:{name}:queues   sorted set of <key> NUL <ticket, 16 digits>
--   further  interlock:{name}:m:<key>  list, the contributions since the fold: <position>:<body>
--            interlock:{name}:erasing  sorted set, the positions of entries that are erased but still have
--                                      their values in the stream; and :copy, the stream without them so far
--            interlock:{name}:projections  sorted set, the names of what is kept of projections, by position
--            interlock:{name}:fenced  sorted set, k<key> of each key whose epoch was raised, a<agent> of each
--                                     agent that has an incarnation
--            interlock:{name}:expiring  sorted set, the keys whose values expire, by when; only whoever sweeps
--                                       reads it
--            interlock:{name}:dropped  set, the unique ids of spaces of this name that were dropped
-- The last of ARGV is always the unique id of the space that the caller has open ('': it opens it).
-- live: 0 deleted, or leased and never written (version 0); 1 a value; 2 contributions; above that a value
-- until this time, and in an answer negative where it has expired.
-- Times are microseconds since 1970 by the server's clock.  A row of an answer is
-- what, n, key, kind, body, base, version, epoch, agent, time, position, live, extra (see answers.py).

local STATE, LOG, NAMES, QUEUES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local CHUNK = 1000  -- arguments of one call
local BLOCK = 64  -- entries of a key in one field
local NEAR = 16  -- tickets of a queue that are looked at one by one
local QUEUE = '$lease/'  -- before a key: the queue for its lease
local LONG = 4096  -- bytes of a value
local call, pack, unpacked = redis.call, cmsgpack.pack, cmsgpack.unpack

local UID = table.remove(ARGV)

local moment  -- the server's time, the same for all of a script

local function clock()
    if not moment then
        local now = call('TIME')
        moment = now[1] * 1000000 + now[2]
    end
    return moment
end

-- Digits of a number that is too large for Lua to write in full.
local function text(number)
    return string.format('%.0f', number)
end

-- Whether a lease or ticket holds.  One renewed in the future is dead: the clock stepped back.
local function alive(renewed, expires, now)
    return expires > now and renewed <= now + 1000000
end

-- What `live` is as of a time.
local function as_of(live, now)
    if live <= 2 or live > now then return live end
    return -live
end

-- Redis evicts whole keys, and anybody may delete one.  The request fails, having written nothing; faults.py
-- makes the fault of it.
local function missing(what, why)
    error('MISSING: ' .. what .. ' ' .. why .. ' :MISSING', 0)
end

-- Compares what must agree: each position since the cut is an entry of the log, and a space that has entries
-- has keys.  Whoever writes comes by here first, so that nothing makes anew what is missing.
local function check_whole(position, cut)
    position, cut = tonumber(position or 0), tonumber(cut or 0)
    local entries, keys = call('XLEN', LOG), call('ZCARD', NAMES)
    if position == 0 and entries + keys > 0 then
        missing(STATE, 'is not there, but there are entries or keys')
    elseif entries ~= position - cut then
        missing(LOG, string.format('has %.0f entries instead of %.0f', entries, position - cut))
    elseif keys == 0 and position > 0 then
        missing(NAMES, 'is not there, but there are entries')
    end
end

-- The space must be the one that the caller has open.  Where it was not dropped, it was lost.
local uid, END, CUT = unpack(call('HMGET', STATE, 'uid', 'p', 'c'))
if UID ~= '' and uid ~= UID then
    if call('SISMEMBER', STATE .. ':dropped', UID) == 1 then error('DROPPED :DROPPED', 0) end
    if not uid then check_whole(END, CUT) end
    error('LOST: ' .. (END or 0) .. ' :LOST', 0)
end

-- Whether a commit that the caller knows of (position '0': none) is not in the log: commits were lost.
local function is_lost(position, op)
    if position == '0' then return false end
    local packed, at = call('HGET', STATE, 'o:' .. op), tonumber(position)
    if not packed then return at > tonumber(call('HGET', STATE, 'c') or 0) end
    local done = unpacked(packed)
    return at < done[1] or at >= done[1] + done[2]
end

-- What most commits do without, made when it is asked for.
local function library()
    local lib = {}

    function lib.field(name)
        local packed = call('HGET', STATE, name)
        return packed and unpacked(packed) or nil
    end

    function lib.number_of(name)
        return tonumber(call('HGET', STATE, name) or 0)
    end

    function lib.list_of(kind, key)
        return STATE .. ':' .. kind .. ':' .. key
    end

    -- Remembers that a key's epoch (k<key>) or an agent's incarnation (a<agent>) was raised.
    function lib.fence(name)
        call('ZADD', STATE .. ':fenced', 0, name)
    end

    -- An entry of the stream, its fields by name.
    function lib.entry(found)
        local fields = found[2]
        local e = {p = tonumber(string.sub(found[1], 1, -3)), r = false}
        for i = 1, #fields, 2 do e[fields[i]] = fields[i + 1] end
        local version, epoch, kind, time, agent = string.match(e.m, '^(%d+) (%d+) (%a+) (%d+) (.*)$')
        e.v, e.e, e.c, e.t, e.a = tonumber(version), tonumber(epoch), kind, tonumber(time), agent
        if kind == 'delete' or e.b == '' or lib.is_erasing(e.p) then e.b = false end
        e.x = tonumber(e.x or 0)
        return e
    end

    -- Whether an entry is erased whose value is still in the stream.
    local erasing
    function lib.is_erasing(position)
        if erasing == nil then
            erasing = lib.number_of('ep')
            local found = call('ZCARD', STATE .. ':erasing')
            if found ~= erasing then missing(STATE .. ':erasing', 'has ' .. found .. ' positions instead of ' .. erasing) end
        end
        return erasing > 0 and call('ZSCORE', STATE .. ':erasing', position) ~= false
    end

    -- The entry at a position, or nil.
    function lib.entry_at(position)
        local found = call('XRANGE', LOG, position, position)[1]
        return found and lib.entry(found)
    end

    -- The positions of a key's entries whose versions lie in a block.
    function lib.block(key, number, version)
        local open = number == math.floor(version / BLOCK)
        local found = {}
        local texts = call('HGET', STATE, open and 'i:' .. key or 'j:' .. number .. ':' .. key) or ''
        for position in string.gmatch(texts, '%d+') do found[#found + 1] = tonumber(position) end
        return found
    end

    -- The first version of a key whose position is above `position`, which is not below the cut; one more
    -- than there are at most.
    function lib.version_after(key, position)
        local head = lib.field('h:' .. key)
        local versions = head and head[1] or 0
        local open = math.floor(versions / BLOCK)
        local low, high = 0, open
        while low < high do  -- the last block that begins at or below the position
            local middle = math.floor((low + high + 1) / 2)
            local first = lib.block(key, middle, versions)[1]
            local cut = not first and middle < open
            if cut or first and first <= position then low = middle else high = middle - 1 end
        end
        local positions = lib.block(key, low, versions)
        local version = (not positions[1] and low < open and low + 1 or low) * BLOCK + 1
        for _, each in ipairs(positions) do
            if each > position then break end
            version = version + 1
        end
        return version, versions
    end

    -- The position of a version of a key that has so many.
    function lib.position_of(key, version, versions)
        local number = math.floor((version - 1) / BLOCK)
        return lib.block(key, number, versions)[version - number * BLOCK]
    end

    -- Compares the number of contributions that a merged key has with its head.  (Schema 1 did not count.)
    function lib.check_list(key, head, fold, found)
        local wrong = head[7] and found ~= head[7]
        if head[3] == 2 and (wrong or not head[7] and found == 0 and fold[1] < head[4]) then
            missing(lib.list_of('m', key), 'has ' .. found .. ' contributions instead of ' .. (head[7] or 'some'))
        end
    end

    -- Contributions after one position and up to another: a JSON array, and how many.
    function lib.contributions(key, after, upto, head, fold)
        local bodies, items = {}, call('LRANGE', lib.list_of('m', key), 0, -1)
        lib.check_list(key, head, fold, #items)
        for _, item in ipairs(items) do
            local colon = string.find(item, ':', 1, true)
            local position = tonumber(string.sub(item, 1, colon - 1))
            if position > after and position <= upto and colon < #item then
                bodies[#bodies + 1] = string.sub(item, colon + 1)
            end
        end
        return '[' .. table.concat(bodies, ',') .. ']', #bodies
    end

    -- Keeps a fold as of a position, never over a later one.
    function lib.keep_fold(key, position, fold)
        local before, list = lib.field('f:' .. key) or {0, false}, lib.list_of('m', key)
        if position <= before[1] then return end
        local head = lib.field('h:' .. key)
        lib.check_list(key, head, before, call('LLEN', list))
        call('HSET', STATE, 'f:' .. key, pack({position, fold}))
        local item = call('LINDEX', list, 0)
        while item and tonumber(string.sub(item, 1, string.find(item, ':', 1, true) - 1)) <= position do
            call('LPOP', list)
            item = call('LINDEX', list, 0)
        end
        if head[3] == 2 and head[7] then
            head[7] = call('LLEN', list)
            call('HSET', STATE, 'h:' .. key, pack(head))
        end
    end

    -- Remembers when a key expires (`live`), whose `live` was another one.
    function lib.keep_expiry(key, live, before)
        if live > 2 then
            call('ZADD', STATE .. ':expiring', live, key)
        elseif before > 2 then
            call('ZREM', STATE .. ':expiring', key)
        end
    end

    -- The record of a key, now.
    function lib.record(what, n, key)
        local head = lib.field('h:' .. key)
        if not head then
            return {what, n, key, false, false, false, 0, 0, false, 0, 0, 0, false}
        end
        local version, epoch, live, position, time, agent =
            head[1], head[2], head[3], head[4], head[5], head[6]
        local body, base, extra = false, false, false
        if live > 2 then live = as_of(live, clock()) end
        if live == 1 or live > 2 then
            body = call('HGET', STATE, 'b:' .. key)
            if not body then missing(STATE, 'has no value of the key ' .. key) end
            if body == '' then body = false end
        elseif live == 2 then
            local fold = lib.field('f:' .. key) or {0, false}
            base = fold[2]
            body, extra = lib.contributions(key, fold[1], position, head, fold)
        end
        return {what, n, key, false, body, base, version, epoch, agent, time, position, live, extra}
    end

    -- The entries of an operation, in order.
    function lib.operation(op, n)
        local done, rows = lib.field('o:' .. op), {}
        if done then
            for position = done[1], done[1] + done[2] - 1 do
                local e = lib.entry_at(position)
                rows[#rows + 1] =
                    {'op', n, e.k, e.c, e.b, false, e.v, e.e, e.a, e.t, position, e.x, false}
            end
        end
        return rows
    end

    -- A ticket that lives, or nil.
    function lib.ticket(number, now)
        local ticket = lib.field('t:' .. number)
        if ticket and alive(ticket[3], ticket[4], now) then return ticket end
    end

    -- The first live tickets in the queue of a key, at most `most`, those before `number` (nil: all): pairs
    -- of number and ticket.
    function lib.queue(key, now, most, number)
        local found = {}
        if lib.number_of('q') == 0 then return found end
        local from = '[' .. key .. '\0'
        local upto = number and '(' .. lib.member(key, number) or from .. '\255'
        local at = 0
        repeat
            local members = call('ZRANGEBYLEX', QUEUES, from, upto, 'LIMIT', at, most)
            for _, member in ipairs(members) do
                local each = tonumber(string.sub(member, -16))
                local ticket = lib.ticket(each, now)
                if ticket then found[#found + 1] = {each, ticket} end
                if #found == most then return found end
            end
            at = at + #members
        until #members < most
        return found
    end

    -- Where a ticket stands in the queues.
    function lib.member(key, number)
        return key .. '\0' .. string.format('%016.0f', number)
    end

    -- The live tickets whose callers have meanwhile what was granted under a name.
    function lib.holders(name, now)
        local found = {}
        for _, number in ipairs(lib.field('k:' .. name) or {}) do
            if lib.ticket(number, now) then found[#found + 1] = number end
        end
        return found
    end

    -- Keeps that a ticket's caller has something (or, where `has` is not true, no more).
    function lib.set_holder(name, number, has)
        local numbers = {}
        for _, each in ipairs(lib.field('k:' .. name) or {}) do
            if each ~= number then numbers[#numbers + 1] = each end
        end
        if has then numbers[#numbers + 1] = number end
        if numbers[1] then
            call('HSET', STATE, 'k:' .. name, pack(numbers))
        else
            call('HDEL', STATE, 'k:' .. name)
        end
    end

    function lib.drop_ticket(number)
        local ticket = lib.field('t:' .. number)
        if not ticket then return end
        for _, key in ipairs(ticket[6]) do call('ZREM', QUEUES, lib.member(key, number)) end
        for _, name in ipairs(ticket[7] or {}) do lib.set_holder(name, number, false) end
        call('HDEL', STATE, 't:' .. number, 'w:' .. ticket[1])
        call('HINCRBY', STATE, 'q', -1)
    end

    -- The first row of a snapshot.
    function lib.now_row(now)
        local found = call('HMGET', STATE, 'p', 'r', 'c', 'e')
        local position, rules = tonumber(found[1] or 0), tonumber(found[2] or 0)
        check_whole(position, found[3])
        local erasures = tonumber(found[4] or 0)
        return {'now', 0, false, false, false, false, erasures, 0, false, now, position, 0, rules}
    end

    -- The rows about who waits for a key, and who has its lease.
    function lib.add_others(rows, key, now)
        local waiting = #lib.queue(key, now, NEAR)
        if waiting > 0 then
            rows[#rows + 1] = {'queued', 0, key, false, false, false, false, false, false, false, false,
                false, waiting}
        end
        local lease = lib.field('l:' .. key)
        if lease and alive(lease[4], lease[5], now) then
            rows[#rows + 1] = {'lease', 0, key, false, false, false, false, lease[1], lease[2],
                lease[5] - now, false, false, false}
        end
    end

    return lib
end
