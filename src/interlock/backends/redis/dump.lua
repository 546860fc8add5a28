-- A moment of a space: where its log ends, where it is cut, and its parts.
-- KEYS: those of common.lua.
-- Answers {position, cut, epochs, agents, groups, pending, projections}, as core/transfer.py has them.

local lib = library()
local position, floor = lib.number_of('p'), lib.number_of('c')
check_whole(position, floor)
local epochs, agents, groups, pending, projections = {}, {}, {}, {}, {}

-- The epoch that the last entry of a key says.
local function logged(key, head)
    if head[1] == 0 then return 0 end
    if head[4] > floor then return lib.entry_at(head[4]).e end
    return lib.field('z:' .. key)[3]
end

for _, member in ipairs(call('ZRANGE', STATE .. ':fenced', 0, -1)) do
    local name = string.sub(member, 2)
    if string.sub(member, 1, 1) == 'a' then
        agents[#agents + 1] = {name, lib.field('a:' .. name)[1]}
    else
        local head, lease = lib.field('h:' .. name), lib.field('l:' .. name)
        local raised = head[2] + (lease and lease[1] == head[2] and 1 or 0)
        if raised > logged(name, head) then epochs[#epochs + 1] = {name, raised} end
    end
end
for _, name in ipairs(call('ZRANGE', STATE .. ':groups', 0, -1)) do
    local group, dealt = lib.list_of('g', name), lib.list_of('d', name)
    local found = call('HMGET', group, 'prefix', 'cursor')
    groups[#groups + 1] = {name, found[1], tonumber(found[2])}
    for _, member in ipairs(call('ZRANGEBYLEX', dealt, '[p', '(p\255')) do
        local place = string.sub(member, 2)
        local waiting = unpacked(call('HGET', group, 'e:' .. place))
        local held = unpacked(call('HGET', group, 'k:' .. waiting[1]))
        pending[#pending + 1] = {name, tonumber(place), waiting[1], held[1], waiting[3]}
    end
end
for _, name in ipairs(call('ZRANGE', STATE .. ':projections', 0, -1)) do
    local kept = lib.field('v:' .. name)
    projections[#projections + 1] = {name, kept[1], kept[2]}
end
return {position, floor, epochs, agents, groups, pending, projections}
