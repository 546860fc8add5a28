-- The atomic step: judges one plan and applies it where nothing stands against it.
-- KEYS: those of common.lua, then for each write the lists i and m of its key.
-- ARGV: 1 operation id, 2 agent, 3 incarnation, 4 version of the rules, 5 ticket, 6 whether it yields
--   (1 or 0), 7 and 8 position and operation id of a commit that the caller knows of (0: none), 9 reads
--   as JSON or '', 10 number of expectations, 11 of writes, 12 of scans; then
--   for each expectation: key, version ('' : must not exist now), epoch ('' : not compared)
--   for each write: kind, key, whether its lease is held (1 or 0), body or ''
--   for each scan: prefix, end or '', number of members; for each: key, version, epoch; sorted by key
-- Answers {'done', position of the first entry, time, version, epoch of each write}, or {'rows', rows}
-- with what stands against it, as commit.sql of the PostgreSQL dialect does, or {'back', position}.

local op, agent = ARGV[1], ARGV[2]
local at, expects, writes = 13, {}, {}
for i = 1, tonumber(ARGV[10]) do
    expects[i] = {key = ARGV[at], version = tonumber(ARGV[at + 1]), epoch = tonumber(ARGV[at + 2])}
    at = at + 3
end
for i = 1, tonumber(ARGV[11]) do
    writes[i] = {kind = ARGV[at], key = ARGV[at + 1], leased = ARGV[at + 2] == '1', body = ARGV[at + 3]}
    at = at + 4
end

-- Everything that most plans need, at once.
local names = {'p', 't', 'r', 'q', 'o:' .. op, 'a:' .. agent, 'o:' .. ARGV[8]}
local known = {}
local function ask(name)
    if known[name] == nil then
        known[name] = false
        names[#names + 1] = name
    end
end
for _, e in ipairs(expects) do ask('h:' .. e.key) end
for _, w in ipairs(writes) do
    ask('h:' .. w.key)
    ask('l:' .. w.key)
end
local found = call('HMGET', STATE, unpack(names, 1, math.min(#names, CHUNK)))
for from = CHUNK + 1, #names, CHUNK do
    local more = call('HMGET', STATE, unpack(names, from, math.min(#names, from + CHUNK - 1)))
    for i, value in ipairs(more) do found[from + i - 1] = value end
end
for i = 8, #names do known[names[i]] = found[i] and unpacked(found[i]) end
local position, last = tonumber(found[1] or 0), tonumber(found[2] or 0)
local now = clock()
local time = math.max(now, last)  -- times never fall along the log, whatever the clock does
local ticket = tonumber(ARGV[5])

local function head_of(key)
    return known['h:' .. key] or {0, 0, 0, 0}
end

local function refused(what, n, key, version, epoch, holder, until_us, extra)
    return {'rows', {{what, n, key, false, false, false, version, epoch, holder, until_us, false, false,
        extra}}}
end

-- A commit that was acknowledged must still be there.
if ARGV[7] ~= '0' then
    local done = found[7] and unpacked(found[7])
    local there = done and done[1] <= tonumber(ARGV[7]) and tonumber(ARGV[7]) < done[1] + done[2]
    if not there then return {'back', position} end
end

-- Applied before?
if found[5] then
    local rows = operation(op, 0)
    write_again('p')
    if ticket > 0 then drop_ticket(ticket) end
    return {'rows', rows}
end

-- Who writes?
local incarnation = found[6] and unpacked(found[6])[1] or 0
if incarnation ~= tonumber(ARGV[3]) then
    return refused('replaced', 0, false, incarnation, false, false, false, false)
end
for _, w in ipairs(writes) do
    local lease = known['l:' .. w.key]
    if lease and not w.leased and alive(lease[4], lease[5], now) then
        return refused('leased', 0, w.key, false, false, lease[2], lease[5] - now, false)
    end
end
for i, e in ipairs(expects) do
    local epoch = head_of(e.key)[2]
    if e.epoch and e.epoch ~= epoch then
        return refused('fenced', 0, e.key, false, epoch, false, false, i - 1)
    end
end

-- By which rules?
if tonumber(found[3] or 0) ~= tonumber(ARGV[4]) then
    return {'rows', {record('outdated', 0, '$rules')}}
end

-- From what?
local function moved(i, row)
    local which = {'which', 0, false, false, false, false, false, false, false, false, false, false, i}
    return {'rows', {which, row}}
end
for i, e in ipairs(expects) do
    local head = head_of(e.key)
    local differs = head[4] > 0
    if e.version then differs = head[1] ~= e.version end
    if differs then return moved(i - 1, record('moved', 0, e.key)) end
end
for i = 1, tonumber(ARGV[12]) do
    local prefix, upto, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    at = at + 3
    local members, differing = {}, nil
    for _ = 1, count do
        members[ARGV[at]] = {tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])}
        at = at + 3
    end
    local function differ(key)
        if not differing or key < differing then differing = key end
    end
    for _, key in ipairs(call('ZRANGEBYLEX', NAMES, '[' .. prefix, upto == '' and '+' or '(' .. upto)) do
        if string.sub(key, 1, 1) ~= '$' then
            local head, member = field('h:' .. key), members[key]
            if head[4] > 0 then
                if not member or member[1] ~= head[1] or member[2] ~= head[2] then differ(key) end
                members[key] = nil
            end
        end
    end
    for key in pairs(members) do differ(key) end
    if differing then return moved(i - 1, record('scan', 0, differing)) end
end

-- In turn?
if tonumber(found[4] or 0) > 0 then
    for _, w in ipairs(writes) do
        local first = queue(w.key, now)[1]
        if first and first[1] ~= ticket and (ARGV[6] == '1' or first[2][5]) then
            return refused('turn', 0, w.key, false, false, first[2][2], first[2][4] - now, false)
        end
    end
end

-- Nothing stands against it: apply.
local LIVE = {put = 1, append = 2, delete = 0}
local done = {'done', position + 1, time}
local changes, gone = {}, {}
local function set(name, value)
    changes[#changes + 1] = name
    changes[#changes + 1] = value
end
local first = position + 1
for i, w in ipairs(writes) do
    local head = head_of(w.key)
    local version, epoch, live = head[1] + 1, head[2], LIVE[w.kind]
    position = position + 1
    local lease = known['l:' .. w.key]
    if lease and not w.leased then
        -- Writing over a lease that has expired takes it away: its holder is fenced from here on.
        gone[#gone + 1] = 'l:' .. w.key
        known['l:' .. w.key] = false
        if lease[1] == epoch then epoch = epoch + 1 end  -- otherwise a reclaim has raised it already
    end
    local index, merged = KEYS[3 + 2 * i], KEYS[4 + 2 * i]
    call('XADD', LOG, text(position) .. '-0', 'k', w.key, 'v', text(version), 'e', text(epoch), 'c', w.kind,
        'b', w.body, 'a', agent, 't', text(time), 'o', op, 'r', ARGV[9])
    call('RPUSH', index, text(position))
    if live == 1 then
        set('b:' .. w.key, w.body)
    elseif live == 2 then
        call('RPUSH', merged, text(position) .. ':' .. w.body)
    else
        gone[#gone + 1] = 'b:' .. w.key
        if head[4] == 2 then
            set('f:' .. w.key, pack({position, false}))
            call('DEL', merged)
        end
    end
    local new = {version, epoch, position, live, time, agent}
    set('h:' .. w.key, pack(new))
    known['h:' .. w.key] = new
    if version == 1 then call('ZADD', NAMES, 0, w.key) end
    if w.key == '$rules' then set('r', text(version)) end
    done[#done + 1] = version
    done[#done + 1] = epoch
end
set('o:' .. op, pack({first, #writes}))
set('p', text(position))
set('t', text(time))
for from = 1, #changes, CHUNK do
    call('HSET', STATE, unpack(changes, from, math.min(#changes, from + CHUNK - 1)))
end
if #gone > 0 then
    for from = 1, #gone, CHUNK do
        call('HDEL', STATE, unpack(gone, from, math.min(#gone, from + CHUNK - 1)))
    end
end
if ticket > 0 then drop_ticket(ticket) end
return done
