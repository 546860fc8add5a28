-- What `doctor` asks of a space.
-- KEYS: those of common.lua, then that of the names of the groups.
-- Answers {time, position, cut, time of the last entry, leases (key, holder, microseconds left), queues (key,
-- waiting, dead), groups (name, cursor, pending, of them with dead consumers)}.

local lib, now = library(), clock()
local leases, queues, groups = {}, {}, {}
for _, member in ipairs(call('ZRANGE', STATE .. ':fenced', 0, -1)) do
    local key = string.sub(member, 2)
    local lease = string.sub(member, 1, 1) == 'k' and lib.field('l:' .. key)
    if lease then leases[#leases + 1] = {key, lease[2], lease[5] - now} end
end
local known = {}
for _, member in ipairs(call('ZRANGE', QUEUES, 0, 9999)) do
    local key, number = string.sub(member, 1, -18), tonumber(string.sub(member, -16))
    if not known[key] then
        known[key] = {key, 0, 0}
        queues[#queues + 1] = known[key]
    end
    known[key][2] = known[key][2] + 1
    if not lib.ticket(number, now) then known[key][3] = known[key][3] + 1 end
end
for _, name in ipairs(call('ZRANGE', KEYS[5], 0, -1)) do
    local group, pending, dead = lib.list_of('g', name), 0, 0
    for _, member in ipairs(call('ZRANGEBYLEX', lib.list_of('d', name), '[c', '(c\255')) do
        local consumer = string.sub(member, 2)
        local c = unpacked(call('HGET', group, 'c:' .. consumer))
        local count = tonumber(call('HGET', group, 'n:' .. consumer) or 0)
        pending = pending + count
        if not alive(c[1], c[1] + c[2], now) then dead = dead + count end
    end
    groups[#groups + 1] = {name, tonumber(call('HGET', group, 'cursor')), pending, dead}
end
return {now, lib.number_of('p'), lib.number_of('c'), lib.number_of('t'), leases, queues, groups}
