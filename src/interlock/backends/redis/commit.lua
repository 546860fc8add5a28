-- The atomic step: judges plans one after the other, each on its own, and applies those that nothing
-- stands against.
-- KEYS: those of common.lua, then the list m of each key that is appended to or deleted, in order.
-- ARGV: 1 and 2 position and operation id of a commit that the caller knows of (0: none), 3 number of
-- plans; then for each plan
--   1 operation id, 2 agent, 3 incarnation, 4 version of the rules, 5 ticket, 6 whether it yields (1 or 0),
--   7 reads as JSON or '', 8 number of keys, 9 of expectations, 10 of writes, 11 of scans; then
--   the keys of the plan, each once
--   for each expectation: number of its key, version ('' : must not exist now; negative: the value of version
--   -(version + 1) must have expired), epoch ('' : not compared)
--   for each write: number of its key, kind, whether its lease is held (1 or 0), body or '', microseconds
--   until the value expires, or 0
--   for each scan: prefix, end or '', number of members; for each: key, version, epoch; sorted by key
-- Answers for each plan {position of the first entry, time, version and epoch of each write}, or rows with
-- what stands against it, as commit.sql of the PostgreSQL dialect does.  Instead of all: {'back', position}.

local LIVE = {put = 1, append = 2, delete = 0}
local now = clock()
local lists = 4  -- of KEYS that were used

-- A row that names what stands against a plan.
local function refused(what, key, version, epoch, holder, until_us, extra)
    return {{what, 0, key, false, false, false, version, epoch, holder, until_us, false, false, extra}}
end

local function moved(i, row)
    return {{'which', 0, false, false, false, false, false, false, false, false, false, false, i}, row}
end

-- Names and values of fields, many at once.
local function get(names)
    if #names <= CHUNK then return call('HMGET', STATE, unpack(names)) end
    local found = {}
    for from = 1, #names, CHUNK do
        local upto = math.min(#names, from + CHUNK - 1)
        local some = call('HMGET', STATE, unpack(names, from, upto))
        for i = from, upto do found[i] = some[i - from + 1] end
    end
    return found
end

local function change(command, arguments)
    for from = 1, #arguments, CHUNK do
        call(command, STATE, unpack(arguments, from, math.min(#arguments, from + CHUNK - 1)))
    end
end

-- The version of a key as plans expect it: -(version + 1) where the value has expired.
local function observed(head)
    return as_of(head[3], now) < 0 and -1 - head[1] or head[1]
end

-- The first key that differs between the scans of a plan and what they would return now.
local function scan_moved(at, scans)
    local lib = library()
    for i = 1, scans do
        local prefix, upto, past = ARGV[at + 1], ARGV[at + 2], at + 3 + 3 * tonumber(ARGV[at + 3])
        local members, differing = {}, nil
        for member = at + 4, past, 3 do
            members[ARGV[member]] = {tonumber(ARGV[member + 1]), tonumber(ARGV[member + 2])}
        end
        at = past
        local function differ(key)
            if not differing or key < differing then differing = key end
        end
        for _, key in ipairs(call('ZRANGEBYLEX', NAMES, '[' .. prefix, upto == '' and '+' or '(' .. upto)) do
            if prefix ~= '' or string.sub(key, 1, 1) ~= '$' then
                local head, member = lib.field('h:' .. key), members[key]
                if as_of(head[3], now) > 0 then
                    if not member or member[1] ~= head[1] or member[2] ~= head[2] then differ(key) end
                    members[key] = nil
                end
            end
        end
        for key in pairs(members) do differ(key) end
        if differing then return moved(i - 1, lib.record('scan', 0, differing)) end
    end
end

-- Judges the plan whose arguments begin after `base`, and applies it.
local function commit(base)
    local op, agent, ticket = ARGV[base + 1], ARGV[base + 2], tonumber(ARGV[base + 5])
    local keys_at, n_keys = base + 11, tonumber(ARGV[base + 8])
    local expect_at, n_expects = keys_at + n_keys, tonumber(ARGV[base + 9])
    local write_at, n_writes = expect_at + 3 * n_expects, tonumber(ARGV[base + 10])

    -- Everything that most plans need, at once: of each key the head, the lease and its last positions.
    local names = {'p', 't', 'r', 'q', 'o:' .. op, 'a:' .. agent}
    for i = 1, n_keys do
        local key = ARGV[keys_at + i]
        names[4 + 3 * i], names[5 + 3 * i], names[6 + 3 * i] = 'h:' .. key, 'l:' .. key, 'i:' .. key
    end
    local found = get(names)
    local heads, leases, positions = {}, {}, {}
    for i = 1, n_keys do
        local head, lease = found[4 + 3 * i], found[5 + 3 * i]
        heads[i] = head and unpacked(head) or {0, 0, 0}
        leases[i] = lease and unpacked(lease)
        positions[i] = found[6 + 3 * i]
    end

    -- Applied before?
    if found[5] then
        local lib = library()
        if ticket > 0 then lib.drop_ticket(ticket) end
        return lib.operation(op, 0)
    end

    -- Who writes?
    local incarnation = found[6] and unpacked(found[6])[1] or 0
    if incarnation ~= tonumber(ARGV[base + 3]) then
        return refused('replaced', false, incarnation, false, false, false, false)
    end
    for at = write_at + 1, write_at + 5 * n_writes, 5 do
        local number = tonumber(ARGV[at])
        local lease = leases[number]
        if lease and ARGV[at + 2] ~= '1' and alive(lease[4], lease[5], now) then
            return refused('leased', ARGV[keys_at + number], false, false, lease[2], lease[5] - now, false)
        end
    end
    for i = 1, n_expects do
        local at = expect_at + 3 * i
        local number, epoch = tonumber(ARGV[at - 2]), ARGV[at]
        if epoch ~= '' and tonumber(epoch) ~= heads[number][2] then
            return refused('fenced', ARGV[keys_at + number], false, heads[number][2], false, false, i - 1)
        end
    end

    -- By which rules?
    if tonumber(found[3] or 0) ~= tonumber(ARGV[base + 4]) then
        return {library().record('outdated', 0, '$rules')}
    end

    -- From what?
    for i = 1, n_expects do
        local at = expect_at + 3 * i
        local number, version = tonumber(ARGV[at - 2]), ARGV[at - 1]
        local differs
        if version == '' then
            differs = as_of(heads[number][3], now) > 0
        else
            differs = tonumber(version) ~= observed(heads[number])
        end
        if differs then return moved(i - 1, library().record('moved', 0, ARGV[keys_at + number])) end
    end
    if ARGV[base + 11] ~= '0' then
        local rows = scan_moved(write_at + 5 * n_writes, tonumber(ARGV[base + 11]))
        if rows then return rows end
    end

    -- In turn?
    if tonumber(found[4] or 0) > 0 then
        local lib = library()
        for at = write_at + 1, write_at + 5 * n_writes, 5 do
            local key = ARGV[keys_at + tonumber(ARGV[at])]
            local first = lib.queue(key, now, 1)[1]
            if first and first[1] ~= ticket and (ARGV[base + 6] == '1' or first[2][5]) then
                return refused('turn', key, false, false, first[2][2], first[2][4] - now, false)
            end
        end
    end

    -- Onto what is whole?
    local list = lists
    for at = write_at + 1, write_at + 5 * n_writes, 5 do
        local head = heads[tonumber(ARGV[at])]
        if ARGV[at + 1] ~= 'put' then
            list = list + 1
            if ARGV[at + 1] == 'append' and head[3] == 2 and head[7] and call('LLEN', KEYS[list]) ~= head[7] then
                missing(KEYS[list], 'has not the ' .. head[7] .. ' contributions that it had')
            end
        end
    end

    -- Nothing stands against it: apply.
    local position = tonumber(found[1] or 0)
    local time = math.max(now, tonumber(found[2] or 0))  -- times never fall along the log
    local stamp, done = text(time), {position + 1, time}
    local changes = {'o:' .. op, pack({position + 1, n_writes}), 'p', position + n_writes, 't', stamp}
    local gone, top = {}, 6
    list = lists
    for i = 1, n_writes do
        local at = write_at + 5 * i - 1
        local number, kind, body = tonumber(ARGV[at - 3]), ARGV[at - 2], ARGV[at]
        local key, head, lease = ARGV[keys_at + number], heads[number], leases[number]
        local version, epoch, live = head[1] + 1, head[2], LIVE[kind]
        local ttl = tonumber(ARGV[at + 1])
        if ttl > 0 then live = time + ttl end
        position = position + 1
        if lease and ARGV[at - 1] ~= '1' then
            -- Writing over a lease that has expired takes it away: its holder is fenced from here on.
            gone[#gone + 1] = 'l:' .. key
            leases[number] = nil
            if lease[1] == epoch then epoch = epoch + 1 end  -- otherwise a reclaim has raised it already
        end
        local length = math.max(#body, #ARGV[base + 7])
        if length > LONG and length > tonumber(call('HGET', STATE, 'x') or 0) then
            call('HSET', STATE, 'x', length)
        end
        local meta = version .. ' ' .. epoch .. ' ' .. kind .. ' ' .. stamp .. ' ' .. agent
        local more = {}
        if ARGV[base + 7] ~= '' then more = {'r', ARGV[base + 7]} end
        if ttl > 0 then more[#more + 1], more[#more + 2] = 'x', text(live) end
        if live > 2 or head[3] > 2 then library().keep_expiry(key, live, head[3]) end
        call('XADD', LOG, position .. '-0', 'k', key, 'o', op, 'm', meta, 'b', body, unpack(more))
        local open = positions[number] and positions[number] .. ' ' .. position or position
        if version % BLOCK == 0 then
            changes[top + 1], changes[top + 2] = 'j:' .. version / BLOCK - 1 .. ':' .. key, open
            top, open = top + 2, ''
        end
        positions[number] = open
        if kind ~= 'put' then list = list + 1 end
        local count = live == 2 and call('RPUSH', KEYS[list], position .. ':' .. body) or nil
        heads[number] = {version, epoch, live, position, time, agent, count}
        changes[top + 1], changes[top + 2] = 'i:' .. key, open
        changes[top + 3], changes[top + 4] = 'h:' .. key, pack(heads[number])
        top = top + 4
        if kind == 'put' then
            changes[top + 1], changes[top + 2] = 'b:' .. key, body
            top = top + 2
        elseif live == 0 then
            gone[#gone + 1] = 'b:' .. key
            if head[3] == 2 then
                changes[top + 1], changes[top + 2] = 'f:' .. key, pack({position, false})
                top = top + 2
                call('UNLINK', KEYS[list])
            end
        end
        if version == 1 then call('ZADD', NAMES, 0, key) end
        if key == '$rules' then call('HSET', STATE, 'r', version) end
        done[1 + 2 * i], done[2 + 2 * i] = version, epoch
    end
    change('HSET', changes)
    change('HDEL', gone)
    if ticket > 0 then library().drop_ticket(ticket) end
    return done
end

-- A commit that was acknowledged must still be there.
if is_lost(ARGV[1], ARGV[2]) then return {'back', call('HGET', STATE, 'p') or 0} end
check_whole(END, CUT)
local answers, base = {}, 3
for i = 1, tonumber(ARGV[3]) do
    answers[i] = commit(base)
    local n_keys, n_expects, n_writes = ARGV[base + 8], ARGV[base + 9], ARGV[base + 10]
    local scans, next_base = tonumber(ARGV[base + 11]), base + 11 + n_keys + 3 * n_expects + 5 * n_writes
    for at = next_base - 5 * n_writes + 2, next_base, 5 do
        if ARGV[at] ~= 'put' then lists = lists + 1 end
    end
    for _ = 1, scans do next_base = next_base + 3 + 3 * tonumber(ARGV[next_base + 3]) end
    base = next_base
end
return answers
